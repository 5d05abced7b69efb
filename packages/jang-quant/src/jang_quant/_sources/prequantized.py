"""Sources that are quantized already: which can be undone exactly, and how.

Codes, scales and biases become the float32 values that they stand for, in lazy arrays. Everything
else is refused: a guess at a layout gives numbers without meaning.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx

from jang_format import StoredTensor
from jang_quant._errors import SourceError

Arrays = dict[str, mx.array]

_KEYS: Final = ("quantization", "quantization_config")
_TEXT: Final = "text_config"
# ModelOpt keeps what others write into config.json in a file of its own.
_MODELOPT_FILE: Final = "hf_quant_config.json"

_FP8: Final = "F8_E4M3"
_FP8_SCALES: Final = ("_scale_inv", "_scale")
_FP8_BLOCK: Final = (128, 128)
# Scales of activations have no part in the weights.
_UNUSED_SUFFIXES: Final = (".input_scale", ".activation_scale")

_PACKED_SUFFIX: Final = ".weight_packed"
_PACKED_BITS: Final = 4

# MLX's own: bits and group size by which the other modes than affine are known.
_MODES: Final = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}


@dataclass(frozen=True)
class Prequantization:
    """How a source is quantized.

    Attributes:
        label: For people, such as "FP8 E4M3".
        config: The entry of config.json that says so.
    """

    label: str
    config: Mapping[str, Any]


def recognize(directory: Path, config: Mapping[str, Any]) -> Prequantization | None:
    """How a source is quantized, from its config; None in full precision.

    Raises:
        SourceError: If it is quantized in a way that cannot be undone exactly.
    """
    file = directory / "config.json"
    text = config.get(_TEXT)
    levels = {"": config}
    if isinstance(text, dict):
        levels[f"{_TEXT}."] = cast(dict[str, Any], text)
    for prefix, level in levels.items():
        for key in _KEYS:
            entry = level.get(key)
            if isinstance(entry, dict) and entry:
                found = cast(dict[str, Any], entry)
                return Prequantization(_label(file, prefix + key, found), found)
    if (directory / _MODELOPT_FILE).exists():
        raise SourceError(
            f"{directory / _MODELOPT_FILE}: file: found a model quantized by ModelOpt, expected "
            f"{_EXPECTED}"
        )
    return None


def _label(file: Path, field: str, entry: Mapping[str, Any]) -> str:
    method = entry.get("quant_method")
    if method is None and "bits" in entry and "group_size" in entry:
        modules = [cast(dict[str, Any], part) for part in entry.values() if isinstance(part, dict)]
        widths = {str(part["bits"]) for part in (entry, *modules) if "bits" in part}
        return f"MLX {entry.get('mode', 'affine')} {'/'.join(sorted(widths))}-bit"
    known = _METHODS.get(str(method))
    if known is None:
        raise SourceError(f"{file}: {field}.quant_method: found {method!r}, expected {_EXPECTED}")
    return known(file, field, entry)


def _fixed(label: str) -> Callable[[Path, str, Mapping[str, Any]], str]:
    return lambda file, field, entry: label


def _compressed_label(file: Path, field: str, entry: Mapping[str, Any]) -> str:
    """compressed-tensors is a container for many formats."""
    found = entry.get("format")
    if found in ("float-quantized", "naive-quantized"):
        return "FP8 E4M3"
    if found != "pack-quantized":
        raise SourceError(
            f"{file}: {field}.format: found {found!r}, expected float-quantized or pack-quantized"
        )
    for name, group in cast(dict[str, Any], entry.get("config_groups") or {}).items():
        weights = cast(dict[str, Any], group.get("weights") or {})
        kind = (weights.get("num_bits"), weights.get("type"), weights.get("symmetric"))
        if kind != (_PACKED_BITS, "int", True):
            raise SourceError(
                f"{file}: {field}.config_groups.{name}.weights: found num_bits, type, symmetric = "
                f"{kind}, expected {(_PACKED_BITS, 'int', True)}"
            )
    return f"INT{_PACKED_BITS}"


_METHODS: Final[Mapping[str, Callable[[Path, str, Mapping[str, Any]], str]]] = {
    "fp8": _fixed("FP8 E4M3"),
    "mxfp4": _fixed("MXFP4"),
    "mxfp8": _fixed("MXFP8"),
    "compressed-tensors": _compressed_label,
}
_EXPECTED: Final = f"a model in bf16, f16 or f32, or MLX's quantization, or {', '.join(_METHODS)}"


def undo_before_sanitize(
    arrays: Arrays, stored: Mapping[str, StoredTensor], quantization: Prequantization | None
) -> Arrays:
    """Replace the tensors of formats that are not MLX's by their values in float32.

    Args:
        arrays: The checkpoint's tensors.
        stored: What they are in the files, by the same names.
        quantization: What the config says about them.

    Raises:
        SourceError: If a tensor has no scales, or scales of a shape that does not fit.
    """
    values = {name: array for name, array in arrays.items() if not name.endswith(_UNUSED_SUFFIXES)}
    config: Mapping[str, Any] = quantization.config if quantization else {}
    for name, array in arrays.items():
        if stored[name].spec.dtype == _FP8:
            scale_name = next(
                (name + suffix for suffix in _FP8_SCALES if name + suffix in values), None
            )
            if scale_name is None:
                raise _mismatch(stored[name], f"{_FP8} without a scale", f"{name}_scale_inv too")
            scale = values.pop(scale_name)
            values[name] = _fp8_values(stored[name], array, scale, config)
        elif name.endswith(_PACKED_SUFFIX):
            base = name.removesuffix("_packed")
            scale = values.pop(f"{base}_scale", None)
            if scale is None or f"{base}_zero_point" in values:
                raise _mismatch(stored[name], "other tensors beside it", f"{base}_scale alone")
            del values[name]
            values.pop(f"{base}_shape", None)
            values[base] = _packed_values(stored[name], array, scale)
    return values


def _fp8_values(
    stored: StoredTensor, codes: mx.array, scale: mx.array, config: Mapping[str, Any]
) -> mx.array:
    """Values of E4M3 codes `[..., out, in]` whose scales are per tensor, row or block."""
    if scale.dtype == mx.uint8:
        # E8M0: nothing but an exponent.
        scale = mx.power(mx.array(2.0), scale.astype(mx.float32) - 127.0)
    scale = scale.astype(mx.float32)
    if scale.ndim == 1 and scale.shape[0] == codes.shape[-2]:
        scale = scale[:, None]
    found = tuple(scale.shape)
    stated = config.get("weight_block_size")
    block = cast(list[int], stated) if isinstance(stated, list) else list(_FP8_BLOCK)
    for axis, size in ((-1, block[-1]), (-2, block[0])):
        length = codes.shape[axis]
        if scale.ndim < -axis or scale.shape[axis] in (1, length):
            continue
        if scale.shape[axis] != math.ceil(length / size):
            raise _mismatch(
                stored, f"scales {found} for {tuple(codes.shape)}", f"blocks of {block}"
            )
        scale = mx.take(scale, mx.arange(length) // size, axis=axis)
    return mx.from_fp8(codes, dtype=mx.float32) * scale


def _packed_values(stored: StoredTensor, words: mx.array, scale: mx.array) -> mx.array:
    """Values of 4-bit codes `[out, words]`, the low ones first, that stand for code - 8."""
    scale = scale.astype(mx.float32)
    inputs = words.shape[-1] * 32 // _PACKED_BITS
    group_size = inputs // scale.shape[-1]
    try:
        return mx.dequantize(
            words.view(mx.uint32),
            scale,
            -(2 ** (_PACKED_BITS - 1)) * scale,
            group_size=group_size,
            bits=_PACKED_BITS,
        )
    except ValueError as error:
        raise _mismatch(stored, f"groups of {group_size}", "groups of 32, 64 or 128") from error


def undo_after_sanitize(
    directory: Path, arrays: Arrays, expected: Mapping[str, tuple[int, ...]]
) -> Arrays:
    """Replace the weights of modules in MLX's own formats by their values in float32.

    Args:
        directory: The source, for messages.
        arrays: The checkpoint's tensors by the model's paths.
        expected: Shape of every parameter of the unquantized model.

    Raises:
        SourceError: If weight, scales and biases of a module do not fit each other.
    """
    values = dict(arrays)
    for name in arrays:
        path, _, part = name.rpartition(".")
        if part != "scales" or f"{path}.weight" not in expected:
            continue
        weight, scales = values.get(f"{path}.weight"), values.pop(name)
        biases = values.pop(f"{path}.biases", None)
        if weight is None:
            raise SourceError(f"{directory}: {path}.weight: found no such tensor, only its scales")
        inputs = expected[f"{path}.weight"][-1]
        values[f"{path}.weight"] = _mlx_values(directory, path, inputs, weight, scales, biases)
    return values


def _mlx_values(
    directory: Path,
    path: str,
    inputs: int,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
) -> mx.array:
    bits = weight.shape[-1] * 32 // inputs
    group_size = inputs // scales.shape[-1]
    affine = scales.dtype != mx.uint8
    try:
        return mx.dequantize(
            weight,
            scales.astype(mx.float32) if affine else scales,
            None if biases is None else biases.astype(mx.float32),
            group_size=group_size,
            bits=bits,
            mode="affine" if affine else _MODES.get((bits, group_size), "mxfp4"),
            dtype=mx.float32,
        )
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{directory}: {path}: found weight {tuple(weight.shape)} and scales "
            f"{tuple(scales.shape)}, expected those of {inputs} quantized inputs ({error})"
        ) from error


def _mismatch(stored: StoredTensor, found: str, expected: str) -> SourceError:
    return SourceError(f"{stored.file}: {stored.spec.name}: found {found}, expected {expected}")
