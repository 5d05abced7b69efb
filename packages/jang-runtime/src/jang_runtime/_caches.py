"""The caches of a model's layers, as mlx-lm makes them: one request's, and a batch's.

One request's caches are plain ones, with no mask and no padding; only when a second request joins
are they merged into mlx-lm's batch caches. Prompts are always worked through in plain caches:
mlx-lm pads prompts of different lengths, which recurrent layers without a mask get wrong.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map  # pyright: ignore[reportUnknownVariableType]

from jang_format import first_line
from jang_runtime._errors import InvalidRequestError, ModelError
from jang_runtime._model import LoadedModel

# One for each layer that needs one.
Caches: TypeAlias = list[Any]

# Architectures of mlx-lm 0.32 that are wrong in a batch even so; `model_type` and the reason.
ALONE: Final[Mapping[str, str]] = {
    "gemma2": "its attention adds the mask [batch, 1, 1, n] to scores [batch, kv, group, 1, n]",
}

KV_BITS: Final = (4, 8)
_KV_GROUP: Final = 64
_LOGITS_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class KVQuantization:
    """Keys and values of attention kept in few bits, group size 64; such requests run alone.

    States of recurrent layers stay exact.

    Attributes:
        bits: 4 or 8.
        start: Texts stay exact up to this many tokens, then all of their tokens are rounded.
    """

    bits: int
    start: int = 5000


@dataclass(frozen=True)
class ForwardPass:
    """A model's function from tokens `[batch, n]` and caches to logits `[batch, n, vocabulary]`.

    Logits of positions that nobody evaluates are never computed.
    """

    model: nn.Module
    vocabulary_size: int
    kv_quantization: KVQuantization | None = None

    @property
    def most_logits(self) -> int:
        """Of how many positions the logits may be computed at once, to bound their memory."""
        return max(1, _LOGITS_BYTES // (4 * self.vocabulary_size))

    def __call__(self, tokens: mx.array, caches: Caches) -> mx.array:
        """Logits, lazily; the tokens are added to the caches."""
        logits = cast(mx.array, self.model(tokens, cache=caches))
        if self.kv_quantization is not None:
            _quantize(caches, self.kv_quantization)
        return logits


def new_caches(model: nn.Module) -> Caches:
    """Empty caches for one request."""
    from mlx_lm.models.cache import make_prompt_cache

    return make_prompt_cache(model)


def merged(caches: Sequence[Caches]) -> Caches:
    """The caches of several requests, each with at least one token, as those of one batch."""
    return [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]


def extend(batch: Caches, more: Caches) -> None:
    """Add the rows of one batch's caches to another's."""
    for layer, other in zip(batch, more, strict=True):
        layer.extend(other)


def keep_rows(batch: Caches, rows: list[int]) -> None:
    """Drop all but some rows from a batch's caches."""
    for layer in batch:
        layer.filter(rows)


def extract(batch: Caches, row: int) -> Caches:
    """One row of a batch's caches as a request's own."""
    row_caches = [layer.extract(row) for layer in batch]
    # Until it is computed it holds on to the whole batch's arrays.
    states = [layer.state for layer in row_caches]
    mx.async_eval(states)  # pyright: ignore[reportUnknownMemberType]
    return row_caches


def copied(caches: Caches) -> Caches:
    """Caches that can go on without changing these; values are copied when they part."""
    return copy.deepcopy(caches)


def compact(caches: Caches) -> Caches:
    """A copy without the spare room that key-value caches make, 256 tokens at a time."""
    from mlx_lm.models.cache import KVCache, QuantizedKVCache

    copies = copied(caches)
    for layer in copies:
        if isinstance(layer, KVCache | QuantizedKVCache) and not layer.empty():
            layer.keys, layer.values = _first(layer.offset, (layer.keys, layer.values))
    states = [layer.state for layer in copies]
    mx.async_eval(states)  # pyright: ignore[reportUnknownMemberType]
    return copies


def repeated(caches: Caches, count: int) -> Caches:
    """One request's caches for `count` continuations of it, row by row the same.

    All rows have the same length, so these are plain caches and fit every architecture.
    """

    def repeat(value: object) -> object:
        return mx.repeat(value, count, axis=0) if isinstance(value, mx.array) else value

    return [layer.from_state(tree_map(repeat, layer.state)) for layer in caches]


def trim(caches: Caches, count: int) -> None:
    """Forget the last `count` tokens; where that cannot be done `count` has to be 0."""
    if count:
        for layer in caches:
            layer.trim(count)


def can_trim(caches: Caches) -> bool:
    """Whether tokens can be forgotten: not by recurrent layers, nor by windows that are full."""
    return all(layer.is_trimmable() for layer in caches)


def size_in_bytes(caches: Caches) -> int:
    """What the caches hold, spare room included."""
    return sum(layer.nbytes for layer in caches)


def evaluate(caches: Caches, *more: object) -> None:
    """Compute what the caches hold, and `more`."""
    states = [layer.state for layer in caches]
    mx.eval(states, *more)  # pyright: ignore[reportUnknownMemberType]


def why_alone(loaded: LoadedModel, kv_quantization: KVQuantization | None) -> str | None:
    """Why requests to this model cannot share a batch; None if they can."""
    if kv_quantization is not None:
        return "mlx-lm's quantized caches cannot be merged"
    if loaded.info.architecture in ALONE:
        return ALONE[loaded.info.architecture]
    for layer in new_caches(loaded.model):
        if not hasattr(layer, "merge"):
            return f"mlx-lm's {type(layer).__name__} cannot be merged"
    return None


def check_kv_quantization(loaded: LoadedModel, wanted: KVQuantization) -> None:
    """Try quantized caches with a few tokens; attention that reads them otherwise fails on them.

    Raises:
        InvalidRequestError: If the numbers are out of range.
        ModelError: If the architecture cannot do it.
    """
    if wanted.bits not in KV_BITS:
        raise InvalidRequestError("kv_quantization.bits", wanted.bits, "4 or 8")
    if wanted.start < 0:
        raise InvalidRequestError("kv_quantization.start", wanted.start, "0 or more")
    run = ForwardPass(
        loaded.model, loaded.info.vocabulary_size, KVQuantization(bits=wanted.bits, start=0)
    )
    caches = new_caches(loaded.model)
    try:
        for tokens in ([[0, 0]], [[0]]):
            evaluate(caches, run(mx.array(tokens), caches))
        if not any(hasattr(layer, "bits") for layer in caches):
            raise ValueError("it has none")
    # Whatever it stumbles over, it is the architecture's doing.
    except Exception as error:
        raise ModelError(
            f"kv_quantization: found {wanted.bits} bits for {loaded.info.architecture}, expected "
            f"none: its attention cannot read quantized caches ({first_line(error)})"
        ) from error


def _first(length: int, arrays: object) -> Any:
    """The first tokens of arrays `[1, heads, tokens, n]`, in whatever they come."""

    def first(array: mx.array) -> mx.array:
        return mx.contiguous(array[..., :length, :])

    return tree_map(first, arrays)


def _quantize(caches: Caches, wanted: KVQuantization) -> None:
    from mlx_lm.models.cache import ArraysCache

    for index, layer in enumerate(caches):
        # States of recurrent layers do not grow with the text; they stay exact.
        if hasattr(layer, "bits") or isinstance(layer, ArraysCache):
            continue
        if not hasattr(layer, "to_quantized"):
            raise ValueError(f"{type(layer).__name__} has no quantized form")
        if layer.offset >= wanted.start:
            caches[index] = layer.to_quantized(group_size=_KV_GROUP, bits=wanted.bits)
