"""How ranks begin: rank 0's options, the same model everywhere, a part of it for each."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar, cast

import mlx.nn as nn

from jang_runtime._errors import (
    AnotherRankError,
    InvalidRequestError,
    JangRuntimeError,
    ModelError,
)
from jang_runtime._loading import MakeModel
from jang_runtime._model import LoadedModel, ModelInfo, load
from jang_runtime._options import EngineOptions
from jang_runtime._ranks.group import LaunchedRanks, OneRank
from jang_runtime._ranks.sharding import Kind, share_of
from jang_runtime._ranks.steps import decode, encode
from jang_runtime._scheduler import Scheduler

_TEXT_BYTES: Final = 1024
_PACKAGES: Final = ("jang-runtime", "mlx", "mlx-lm")

_Result = TypeVar("_Result")


def start(
    path: Path, name: str | None, options: EngineOptions, ranks: OneRank | LaunchedRanks
) -> tuple[ModelInfo, Scheduler]:
    """A model, or this rank's part of it, and what runs requests on it.

    Raises:
        JangRuntimeError: If it cannot be done on one of the ranks; all of them raise.
    """
    if isinstance(ranks, OneRank):
        loaded = load(path, name)
        return loaded.info, Scheduler(loaded, options, ranks)
    options = cast(EngineOptions, decode(_of_first(ranks, encode(options))))
    loaded = _on_all(ranks, lambda: _load_part(path, name, options, ranks))
    _refuse_others(ranks, loaded.info)
    return loaded.info, _on_all(ranks, lambda: Scheduler(loaded, options, ranks))


def _of_first(ranks: LaunchedRanks, content: bytes) -> bytes:
    if ranks.rank:
        return ranks.hear(b"")
    ranks.tell(lambda: b"", lambda: content)
    return content


def _load_part(
    path: Path, name: str | None, options: EngineOptions, ranks: LaunchedRanks
) -> LoadedModel:
    kinds: list[Kind] = []

    def take(make: MakeModel) -> nn.Module:
        share = share_of(make, ranks.group, options.sharding)
        kinds.append(share.kind)
        return share.model

    loaded = load(path, name, take)
    if kinds == ["pipeline"] and options.kv_quantization is not None:
        raise InvalidRequestError(
            "kv_quantization", options.kv_quantization.bits, "none where ranks have other layers"
        )
    return replace(loaded, info=replace(loaded.info, ranks=ranks.size, sharding=kinds[0]))


def _on_all(ranks: LaunchedRanks, work: Callable[[], _Result]) -> _Result:
    """Do something on all ranks, or on none.

    Raises:
        JangRuntimeError: If it failed on this rank.
        AnotherRankError: If it failed on others only.
    """
    result: _Result | None = None
    failure: JangRuntimeError | None = None
    try:
        result = work()
    except JangRuntimeError as error:
        failure = error
    for rank, text in enumerate(_texts(ranks, str(failure or ""))):
        if text and (failure is None or ranks.rank > 0):
            # Rank 0 is the one that people hear.
            raise AnotherRankError(f"rank {rank}: {text}") from failure
    if failure is not None:
        raise failure
    return cast(_Result, result)


def _refuse_others(ranks: LaunchedRanks, info: ModelInfo) -> None:
    """Refuse ranks of which one would compute something else than rank 0.

    Raises:
        ModelError: If there are any.
    """
    own = {"model": info.digest, "backend": info.backend, "split": info.sharding}
    own |= {package: version(package) for package in _PACKAGES}
    first, *others = (json.loads(text) for text in _texts(ranks, json.dumps(own)))
    for rank, other in enumerate(others, 1):
        for key, value in other.items():
            if value != first[key]:
                message = f"rank {rank}: {key}: found {value}, expected {first[key]} as on rank 0"
                raise AnotherRankError(message) if ranks.rank else ModelError(message)


def _texts(ranks: LaunchedRanks, text: str) -> list[str]:
    """A text of each rank, cut where it is long."""
    content = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
    return [each.rstrip(b"\0").decode(errors="replace") for each in ranks.gather(content)]
