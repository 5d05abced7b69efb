"""What the engine has done and holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStatistics:
    """The engine at one moment.

    Attributes:
        queued: Requests that wait.
        active: Requests under way.
        places: How many run at once; those whose results nobody reads do not count.
        decoding: Those of them that get tokens in every step.
        finished: Requests that ended with `Finished`, cancelled ones included.
        cancelled: Of these the cancelled ones.
        failed: Requests that ended with `Failed`.
        prompt_tokens: Tokens of prompts and contexts of all requests that were started.
        cached_prompt_tokens: Of these the ones known from earlier requests.
        generated_tokens: Tokens given to requests, those that ended them included.
        prefix_cache_bytes: Bytes kept of earlier requests.
        prefix_cache_lookups: How often the prefix cache was asked.
        prefix_cache_hits: How often it had something.
        cache_bytes: Bytes that keys and values of requests under way may take.
        cache_bytes_reserved: Bytes of these that are promised to requests.
        active_memory: Bytes that MLX holds, the model included.
        peak_memory: The most that it held.
    """

    queued: int = 0
    active: int = 0
    places: int = 1
    decoding: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_cache_bytes: int = 0
    prefix_cache_lookups: int = 0
    prefix_cache_hits: int = 0
    cache_bytes: int = 0
    cache_bytes_reserved: int = 0
    active_memory: int = 0
    peak_memory: int = 0
