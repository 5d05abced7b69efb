"""The tensors of a GGUF file as the MLX model wants them, read one at a time."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from jang_quant._errors import SourceError
from jang_quant._sources.gguf_architectures import Architecture, TensorRule
from jang_quant._sources.gguf_header import GgufHeader, TensorInfo, mismatch
from jang_quant._sources.source import SourceTensor

Values = NDArray[np.float32]

_LAYER: Final = re.compile(r"blk\.(0|[1-9]\d*)\.")
# Values dequantized at once: enough for numpy to be fast, little enough to stay in the cache.
_CHUNK: Final = 1 << 18


def map_tensors(
    header: GgufHeader,
    architecture: Architecture,
    config: Mapping[str, Any],
    consumed: frozenset[str],
) -> dict[str, SourceTensor]:
    """The model's tensors by path.

    Args:
        header: Of the file.
        architecture: What its tensors are called.
        config: With the numbers that shapes are written in.
        consumed: Tensors that are in the config already.

    Raises:
        SourceError: If a tensor is missing, unknown, of another shape, or of a type that cannot
            be dequantized.
    """
    rules = _active_rules(architecture, config)
    layers: int = config["num_hidden_layers"]
    tensors: dict[str, SourceTensor] = {}
    seen: Counter[str] = Counter()
    for info in header.tensors.values():
        if info.name in consumed:
            continue
        pattern, layer = _split_layer(info.name)
        if pattern not in rules or layer >= layers:
            raise mismatch(
                header.path,
                repr(info.name),
                "a tensor without a place in the model",
                f"those of {architecture.name} with {layers} layers",
            )
        rule = rules[pattern]
        _check_shape(header.path, info, tuple(config[name] for name in rule.shape))
        _check_type(header.path, info)
        tensors[rule.to.replace("{n}", str(layer))] = _source_tensor(
            header.path, info, rule, config
        )
        seen[pattern] += 1
    _check_complete(header, rules, layers, seen)
    return tensors


def read_values(path: Path, info: TensorInfo) -> Values:
    """The values of one tensor, as the file has them.

    Raises:
        SourceError: If the file has changed since it was opened.
    """
    try:
        raw = np.fromfile(path, dtype=np.uint8, count=info.size, offset=info.offset)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    if raw.size != info.size:
        raise mismatch(path, repr(info.name), f"{raw.size} bytes", f"{info.size}, as when opened")
    block, block_bytes = GGML_QUANT_SIZES[info.type]
    values = np.empty(raw.size // block_bytes * block, dtype=np.float32)
    step = max(_CHUNK // block, 1)
    # In one row, since gguf takes rows sixteen at a time, which is slow where they are short.
    for start in range(0, raw.size // block_bytes, step):
        part = raw[start * block_bytes : (start + step) * block_bytes].reshape(1, -1)
        with np.errstate(all="ignore"):
            values[start * block : (start + step) * block] = dequantize(part, info.type)[0]
    if not np.isfinite(values).all():
        raise mismatch(path, repr(info.name), "infinities or NaN", "numbers (the file is damaged)")
    return values.reshape(info.shape)


def _active_rules(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, TensorRule]:
    rules = dict(architecture.tensors)
    for key, group in architecture.optional.items():
        if config[key] == group.present:
            rules |= group.tensors
    return rules


def _split_layer(name: str) -> tuple[str, int]:
    match = _LAYER.match(name)
    # A number of more digits than any layer has may be too long for `int` to take.
    if match is None or len(match[1]) > 9:
        return ("" if "{n}" in name else name), 0
    return f"blk.{{n}}.{name[match.end() :]}", int(match[1])


def _check_shape(path: Path, info: TensorInfo, expected: tuple[int, ...]) -> None:
    if info.shape != expected:
        raise mismatch(path, repr(info.name), f"shape {info.shape}", str(expected))


def _check_type(path: Path, info: TensorInfo) -> None:
    if not _can_dequantize(info.type):
        raise mismatch(path, repr(info.name), f"type {info.type.name}", "one gguf can dequantize")


@functools.cache
def _can_dequantize(kind: GGMLQuantizationType) -> bool:
    # gguf has no list of these, but one block of zeros tells.
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _check_complete(
    header: GgufHeader, rules: Mapping[str, TensorRule], layers: int, seen: Mapping[str, int]
) -> None:
    for pattern in rules:
        per_layer = "{n}" in pattern
        if seen[pattern] == (layers if per_layer else 1):
            continue
        # Stops at the first gap, so a layer count without sense does no harm.
        numbers = range(layers if per_layer else 1)
        names = (pattern.replace("{n}", str(number)) for number in numbers)
        missing = next(name for name in names if name not in header.tensors)
        raise mismatch(header.path, repr(missing), "no such tensor", f"{layers} layers with it")


def _source_tensor(
    path: Path, info: TensorInfo, rule: TensorRule, config: Mapping[str, Any]
) -> SourceTensor:
    transform = None if rule.transform is None else _TRANSFORMS[rule.transform]

    def load() -> tuple[Values, str]:
        values = read_values(path, info)
        return values if transform is None else transform(values, config), "F32"

    return SourceTensor(shape=info.shape, dtype=info.type.name, load=load)


def _unpermute(values: Values, heads: int) -> Values:
    """Undo the reordering of llama.cpp's converter for its interleaved RoPE.

    It turns the rows of each head from two halves into pairs, one of each half.
    """
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _unpermute_q(values: Values, config: Mapping[str, Any]) -> Values:
    return _unpermute(values, config["num_attention_heads"])


def _unpermute_k(values: Values, config: Mapping[str, Any]) -> Values:
    return _unpermute(values, config["num_key_value_heads"])


def _subtract_one(values: Values, config: Mapping[str, Any]) -> Values:
    return values - np.float32(1)


_TRANSFORMS: Final[Mapping[str, Callable[[Values, Mapping[str, Any]], Values]]] = {
    "unpermute_q": _unpermute_q,
    "unpermute_k": _unpermute_k,
    "subtract_one": _subtract_one,
}
