"""How an engine runs requests."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from jang_runtime._caches import KVQuantization
from jang_runtime._errors import InvalidRequestError

_MOST_AT_ONCE: Final = 256

# How a model is split over several processes; "auto" takes tensor where that can be done.
Sharding: TypeAlias = Literal["auto", "tensor", "pipeline"]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs requests.

    Attributes:
        max_active: The most requests under way at once, 1 to 256; the others wait. Architectures
            that mlx-lm cannot batch run one at a time all the same.
        prefix_cache_bytes: Bytes to keep of earlier requests, for prompts that begin as they do;
            0 turns it off.
        cache_bytes: The most bytes of keys and values of all requests under way, the prefix cache
            not counted; None takes half of what is free once the model is loaded. Requests for
            which there is no room wait.
        kv_quantization: Keys and values in few bits; None keeps them exact.
        sharding: How the model is split where several processes run it.
    """

    max_active: int = 16
    prefix_cache_bytes: int = 512 * 10**6
    kv_quantization: KVQuantization | None = None
    cache_bytes: int | None = None
    sharding: Sharding = "auto"


def check_options(options: EngineOptions) -> None:
    """Check all that can be checked without a model.

    Raises:
        InvalidRequestError: Naming the first option that is out of range.
    """
    if not 1 <= options.max_active <= _MOST_AT_ONCE:
        raise InvalidRequestError("max_active", options.max_active, f"1 to {_MOST_AT_ONCE}")
    if options.prefix_cache_bytes < 0:
        raise InvalidRequestError("prefix_cache_bytes", options.prefix_cache_bytes, "0 or more")
    if options.cache_bytes is not None and options.cache_bytes < 1:
        raise InvalidRequestError("cache_bytes", options.cache_bytes, "1 or more")
