"""How fast a server is, as its clients see it: first token, prompt, decoding, several streams.

Load time and memory are what the server says of itself. Prompts are random tokens, no two alike,
and begin otherwise in every run, so that the server knows nothing of them from before.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from jang_eval._errors import OptionError, TargetError
from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._server_answers import Arrivals
from jang_eval._statistics import Doubles, block_bootstrap
from jang_eval._target import Target

TASK_VERSION: Final = 1

# Of streams together, which are about decoding.
_SHORT_PROMPT: Final = 16
# Tokens at the beginning of each prompt that no seed decides.
_DRAWN_ANEW: Final = 2
_WARM_UP: Final = "warm-up"
_SERVER: Final = "server"


@dataclass(frozen=True)
class Load:
    """What the server has to do.

    Attributes:
        prompt_tokens: Of the prompt of one stream.
        decode_tokens: That each stream gets; at least 2, for one alone has no rate.
        streams: Requests at a time; 1 leaves out what is about several.
        rounds: How often everything is measured.

    Raises:
        OptionError: If a value is out of range.
    """

    prompt_tokens: int = 512
    decode_tokens: int = 64
    streams: int = 4
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("prompt_tokens", 2, 1_000_000),
            ("decode_tokens", 2, 100_000),
            ("streams", 1, 256),
            ("rounds", 1, 1000),
        ):
            found: int = getattr(self, name)
            if not low <= found <= high:
                raise OptionError(f"{name}: found {found}, expected {low} to {high}")


def task(target: Target, load: Load, seed: int) -> Task:
    """The task; run it with one question in flight, for each takes the server for itself.

    Args:
        target: The server that is measured.
        load: What it has to do.
        seed: Of the prompts, and of the draws for intervals.

    Raises:
        OptionError: The model has no room for so many tokens.
        TargetError: The server is unreachable, too slow, or refuses.
    """
    model, server = target.model_info(), target.server_info()
    room = min(target.most_prompt_tokens(), model.context_length)
    if load.prompt_tokens > room or load.prompt_tokens + load.decode_tokens > model.context_length:
        raise OptionError(
            f"prompt_tokens, decode_tokens: found {load.prompt_tokens} and {load.decode_tokens}, "
            f"expected at most {room} and {model.context_length} together, "
            f"the limits of server {target.address}"
        )
    # From 0 to 1, the same for all vocabularies.
    drawn = np.random.default_rng(seed).random(
        (load.rounds + 1, load.prompt_tokens + load.streams * _SHORT_PROMPT)
    )
    names = [_WARM_UP, *(str(n) for n in range(1, load.rounds + 1))]
    prompts = [_tokens(row, model.vocabulary_size) for row in _begun_anew(drawn, load)]
    warm_up, *rounds = [
        Item(name, "rounds", tokens) for name, tokens in zip(names, prompts, strict=True)
    ]
    warmed: list[str] = []

    def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
        return metrics(outcomes, load, seed)

    def ask(target: Target, item: Item) -> Outcome:
        if not warmed and item.id != _WARM_UP:
            # What an interrupted run has warmed up was another server, or is cold again.
            measure(target, warm_up, load)
        warmed.append(item.id)
        if item.id == _SERVER:
            return describe_server(target, item)
        return measure(target, item, load)

    return Task(
        name="speed",
        version=TASK_VERSION,
        data_sha256=hashlib.sha256(drawn.astype("<f8").tobytes()).hexdigest(),
        settings={
            "prompt tokens": str(load.prompt_tokens),
            "decode tokens": str(load.decode_tokens),
            "streams": str(load.streams),
            "rounds": str(load.rounds),
            # Speeds of different machines are not compared by mistake.
            "backend": server.backend,
            "ranks": str(server.ranks),
            "seed": str(seed),
        },
        items=[
            warm_up,
            *rounds,
            # Last, for its memory is that of a server that has worked.
            Item(_SERVER, "server", None),
        ],
        ask=ask,
        aggregate=aggregate,
    )


def measure(target: Target, item: Item, load: Load) -> Outcome:
    """One round: one stream with a long prompt, then several with short ones."""
    tokens: tuple[int, ...] = item.content
    begun = perf_counter()
    one = target.arrivals(tokens[: load.prompt_tokens], load.decode_tokens)
    numbers = {"first token": one.times[0] - begun, "decode": rate([one])}
    if load.streams > 1:
        rest = tokens[load.prompt_tokens :]
        shorts = [rest[n : n + _SHORT_PROMPT] for n in range(0, len(rest), _SHORT_PROMPT)]

        def stream(prompt: tuple[int, ...]) -> Arrivals:
            return target.arrivals(prompt, load.decode_tokens)

        with ThreadPoolExecutor(load.streams) as pool:
            numbers["decode of streams"] = rate(list(pool.map(stream, shorts)))
    return Outcome(item.id, item.group, numbers)


def rate(streams: Sequence[Arrivals]) -> float:
    """Tokens a second of some streams together, from the first of any to the last of all.

    Raises:
        TargetError: All came in one message, so that there is no time between them.
    """
    first = min(each.times[0] for each in streams)
    seconds = max(each.times[-1] for each in streams) - first
    # What comes with the first message was made before.
    at_first = next(each.counts[0] for each in streams if each.times[0] == first)
    if seconds <= 0:
        raise TargetError("found all tokens in one message, expected them as they are made")
    return (sum(sum(each.counts) for each in streams) - at_first) / seconds


def describe_server(target: Target, item: Item) -> Outcome:
    """What the server says of itself once everything is measured."""
    info = target.server_info()
    numbers = {
        "load": info.load_seconds,
        "peak memory": info.peak_memory_bytes / 1e6,
        "resident memory": info.resident_bytes / 1e6,
    }
    texts = {"version": info.version, "backend": info.backend}
    return Outcome(item.id, item.group, numbers, texts)


def metrics(outcomes: Sequence[Outcome], load: Load, seed: int) -> list[Metric]:
    """Medians of the rounds after the warm-up, and what the server says of itself."""
    rounds = [each for each in outcomes if each.id not in (_WARM_UP, _SERVER)]
    server = next(each for each in outcomes if each.id == _SERVER).numbers

    def median(name: str, values: list[float], unit: str, better: str) -> Metric:
        interval = None
        if len(values) > 1:
            interval = block_bootstrap([np.array([each]) for each in values], _median, seed)
        return Metric(name, float(np.median(values)), interval, unit, better, len(values))

    first = [each.numbers["first token"] for each in rounds]
    found = [
        median("decode", [each.numbers["decode"] for each in rounds], "tokens/s", "higher"),
        median("prefill", [load.prompt_tokens / each for each in first], "tokens/s", "higher"),
        median("time to first token", first, "s", "lower"),
    ]
    if load.streams > 1:
        together = [each.numbers["decode of streams"] for each in rounds]
        name = f"decode of {load.streams} streams"
        found.insert(1, median(name, together, "tokens/s", "higher"))
    # Older servers do not say these, and send proto3's zero.
    told = (("load", "s"), ("peak memory", "MB"), ("resident memory", "MB"))
    found += [Metric(n, server[n], None, unit, "lower", 1) for n, unit in told if server[n] > 0]
    return found


def _begun_anew(drawn: Doubles, load: Load) -> Doubles:
    """The draws with other beginnings: a server that was asked before may have kept its prompts."""
    found = drawn.copy()
    shorts = range(load.prompt_tokens, drawn.shape[1], _SHORT_PROMPT)
    for start in (0, *shorts):
        beginning = found[:, start : start + _DRAWN_ANEW]
        beginning[:] = np.random.default_rng().random(beginning.shape)
    return found


def _median(values: Doubles) -> float:
    return float(np.median(values))


def _tokens(drawn: Doubles, vocabulary: int) -> tuple[int, ...]:
    ids: list[int] = (drawn * vocabulary).astype(np.int64).tolist()
    return tuple(ids)
