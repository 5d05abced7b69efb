"""A quantized module in MLX layout: `weight`, `scales`, `biases`, and its entry in config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import FLOATS, encode_floats
from jang_format._errors import InvalidFileError, InvalidTensorError, describe
from jang_format._packing import BIT_WIDTHS
from jang_format._quantized import GROUP_SIZES, QuantizedTensor, bias_values, uniform_bit_map
from jang_format._safetensors import StoredTensor, TensorSpec
from jang_format._sizes import input_sizes, module_inputs

PARTS: Final = ("weight", "scales", "biases")


def module_paths(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Module paths of the quantized tensors, in the order of the files."""
    return [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]


def read_module(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], path: str
) -> QuantizedTensor:
    """The quantized tensor of a module, memory-mapped.

    Raises:
        InvalidFileError: If its three tensors or its entry in config.json do not fit together.
    """
    weight, scales, biases = (_part(directory, tensors, path, part) for part in PARTS)
    _check_shapes(weight, scales, biases)
    words, groups = weight.spec.shape[-1], scales.spec.shape[-1]
    bits, group_size = _bits_and_group_size(directory / "config.json", config, path, words, groups)
    return QuantizedTensor(
        packed=weight.map().reshape(-1).view(np.uint8),
        bit_map=uniform_bit_map(bits, scales.spec.shape),
        scales=scales.map(),
        biases=biases.map(),
        zeros=None,
        shape=(*scales.spec.shape[:-1], groups * group_size),
        group_size=group_size,
        dtype=scales.spec.dtype,
    )


def mlx_specs(
    path: str, shape: tuple[int, ...], bits: int, group_size: int, dtype: str
) -> list[TensorSpec]:
    """The tensors of a module with values `[..., out, in]`, floats stored as `dtype`."""
    *leading, columns = shape
    groups = (*leading, columns // group_size)
    return [
        TensorSpec(f"{path}.weight", "U32", (*leading, columns // 32 * bits)),
        TensorSpec(f"{path}.scales", dtype, groups),
        TensorSpec(f"{path}.biases", dtype, groups),
    ]


def mlx_arrays(tensor: QuantizedTensor) -> dict[str, NDArray[Any]]:
    """The arrays of a tensor by part: `weight` uint32 `[..., out, in // 32 * bits]`, and so on.

    Nothing is repacked or copied, apart from biases, which are computed where there are zeros and
    then rounded to the type of the scales.

    Raises:
        InvalidTensorError: If the groups differ in width, rows end inside a group, or a bias is
            beyond the range of its type.
    """
    bits = tensor.bits
    if bits is None:
        raise InvalidTensorError("bits: found several widths, expected one for MLX layout")
    if tensor.shape[-1] % tensor.group_size:
        raise InvalidTensorError(
            f"inputs: found {tensor.shape[-1]}, expected a multiple of {tensor.group_size}"
        )
    biases = tensor.biases
    if biases is None:
        biases = encode_floats(bias_values(tensor), tensor.dtype)
    words = tensor.packed.view("<u4").reshape(*tensor.shape[:-1], tensor.shape[-1] // 32 * bits)
    return {"weight": words, "scales": tensor.scales, "biases": biases}


def _part(
    directory: Path, tensors: Mapping[str, StoredTensor], path: str, part: str
) -> StoredTensor:
    tensor = tensors.get(f"{path}.{part}")
    if tensor is None:
        raise InvalidFileError(directory, f"{path}.{part}", "nothing", "a tensor")
    return tensor


def _check_shapes(weight: StoredTensor, scales: StoredTensor, biases: StoredTensor) -> None:
    shape = weight.spec.shape
    if weight.spec.dtype != "U32" or len(shape) < 2 or 0 in shape:
        found = f"{weight.spec.dtype} {list(shape)}"
        raise InvalidFileError(
            weight.file, weight.spec.name, found, "U32 [..., out, words], not empty"
        )
    if scales.spec.dtype not in FLOATS:
        field = f"{scales.spec.name}.dtype"
        raise InvalidFileError(scales.file, field, scales.spec.dtype, f"one of {FLOATS}")
    if scales.spec.shape[:-1] != shape[:-1] or scales.spec.shape[-1:] in ((), (0,)):
        found = list(scales.spec.shape)
        wanted = f"{list(shape[:-1])} and the groups of a row"
        raise InvalidFileError(scales.file, f"{scales.spec.name}.shape", found, wanted)
    if (biases.spec.dtype, biases.spec.shape) != (scales.spec.dtype, scales.spec.shape):
        found = f"{biases.spec.dtype} {list(biases.spec.shape)}"
        wanted = f"{scales.spec.dtype} {list(scales.spec.shape)} like its scales"
        raise InvalidFileError(biases.file, biases.spec.name, found, wanted)


def _bits_and_group_size(
    file: Path, config: Mapping[str, Any], path: str, words: int, groups: int
) -> tuple[int, int]:
    """Width and group size of a module with rows of `words` words and `groups` groups.

    Raises:
        InvalidFileError: If config.json contradicts the shapes, or does not settle them.
    """
    quantization = config.get("quantization")
    if not isinstance(quantization, dict):
        raise InvalidFileError(
            file, "quantization", describe(quantization), "an object with bits and group_size"
        )
    top = cast(dict[str, Any], quantization)
    fitting = [
        (bits, group_size)
        for group_size in GROUP_SIZES
        for bits in BIT_WIDTHS
        if words * 32 == bits * group_size * groups
    ]
    field = f"quantization.{path}"
    shapes = f"{words} words and {groups} groups a row"
    if path in top:
        stated = _stated(file, field, top[path])
        if stated not in fitting:
            found = f"{stated[0]} bits in groups of {stated[1]}"
            raise InvalidFileError(file, field, found, f"what fits {shapes}")
        return stated
    default = _stated(file, "quantization", top)
    settled = _most_likely(fitting, groups, config, path, default)
    if settled is None:
        found = f"no entry, and {default[0]} bits in groups of {default[1]} for all"
        raise InvalidFileError(file, field, found, f"an entry that fits {shapes}")
    return settled


def _most_likely(
    fitting: list[tuple[int, int]],
    groups: int,
    config: Mapping[str, Any],
    path: str,
    default: tuple[int, int],
) -> tuple[int, int] | None:
    """What a module without an entry of its own has; None where that stays open.

    Old directories state one width for modules of several. Converters take the stated group size,
    or the largest below it that divides the inputs. Of the pairs that this leaves, the sizes of the
    model decide first, those of the module before those of any, for the stated pair may fit by
    chance; then the stated pair, then its group size.
    """
    likely = [
        (bits, size)
        for bits, size in fitting
        if size == default[1] or (size < default[1] and groups % 2)
    ] or fitting
    for inputs in module_inputs(path, config):
        for pair in likely:
            if pair[1] * groups == inputs:
                return pair
    sizes = input_sizes(config)
    likely = [pair for pair in likely if pair[1] * groups in sizes] or likely
    if default in likely:
        return default
    likely = [pair for pair in likely if pair[1] == default[1]] or likely
    return likely[0] if len(likely) == 1 else None


def _stated(file: Path, field: str, found: Any) -> tuple[int, int]:
    """Bits and group size of an entry."""
    if isinstance(found, dict):
        entry = cast(dict[str, Any], found)
        bits, group_size = entry.get("bits"), entry.get("group_size")
        if entry.get("mode", "affine") != "affine":
            mode = describe(entry["mode"])
            raise InvalidFileError(file, f"{field}.mode", mode, "'affine'")
        if type(bits) is int and type(group_size) is int:
            return bits, group_size
    raise InvalidFileError(
        file, field, describe(cast(object, found)), "an object with bits and group_size"
    )
