"""A quantized module in block layout: packed blocks, each with its own width, and companions.

Written are `qweight`, `scales`, `zeros`, `bit_map`, `block_offsets` and `shape`. Read is also what
older files have: `biases` for zeros, `bits` for the two maps, no shape.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import FLOATS, encode_floats
from jang_format._errors import InvalidFileError, InvalidTensorError
from jang_format._packing import BIT_WIDTHS
from jang_format._quantized import (
    GROUP_SIZES,
    QuantizedTensor,
    check_group_size,
    group_offsets,
    pack_groups,
    uniform_bit_map,
)
from jang_format._safetensors import StoredTensor, TensorSpec
from jang_format._sizes import guess_shape

BLOCK_SIZE: Final = 64
PARTS: Final = ("qweight", "scales", "zeros", "bit_map", "block_offsets", "shape")
READABLE_PARTS: Final = (*PARTS, "biases", "bits")
_MOST_DIMENSIONS: Final = 8


def module_paths(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Module paths of the quantized tensors, in the order of the files."""
    return [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]


def assemble_blocks(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    bit_map: NDArray[np.uint8],
    group_size: int = BLOCK_SIZE,
) -> QuantizedTensor:
    """Pack codes `[..., out, in]` in blocks of the widths in `bit_map` `[..., out, blocks]`.

    A value is `(code - zero) * scale`. Where `in` is not a multiple of the block, the last block of
    each row is filled up with zeros.

    Raises:
        InvalidTensorError: If shapes, widths or codes do not fit, or a scale or zero is beyond F16.
    """
    check_group_size(group_size)
    *leading, columns = codes.shape
    blocks = -(-columns // group_size)
    by_block = (*leading, blocks)
    if not leading or any(array.shape != by_block for array in (scales, zeros, bit_map)):
        raise InvalidTensorError(
            f"scales: found {scales.shape}, zeros {zeros.shape} and bit map {bit_map.shape}, "
            f"expected {by_block}"
        )
    padded = np.zeros((*leading, blocks * group_size), dtype=np.uint8)
    padded[..., :columns] = codes
    return QuantizedTensor(
        packed=pack_groups(padded.reshape(*by_block, group_size), bit_map),
        bit_map=bit_map,
        scales=encode_floats(scales, "F16"),
        biases=None,
        zeros=encode_floats(zeros, "F16"),
        shape=codes.shape,
        group_size=group_size,
        dtype="F16",
    )


def block_specs(path: str, shape: tuple[int, ...], packed_bytes: int) -> list[TensorSpec]:
    """The tensors of a module with values `[..., out, in]` in blocks of 64."""
    blocks = int(np.prod(shape[:-1], dtype=np.int64)) * -(-shape[-1] // BLOCK_SIZE)
    return [
        TensorSpec(f"{path}.qweight", "U8", (packed_bytes,)),
        TensorSpec(f"{path}.scales", "F16", (blocks,)),
        TensorSpec(f"{path}.zeros", "F16", (blocks,)),
        TensorSpec(f"{path}.bit_map", "U8", (blocks,)),
        TensorSpec(f"{path}.block_offsets", "U32", (blocks,)),
        TensorSpec(f"{path}.shape", "I64", (len(shape),)),
    ]


def block_arrays(tensor: QuantizedTensor) -> dict[str, NDArray[Any]]:
    """The arrays of a tensor by part, all of them flat.

    Raises:
        InvalidTensorError: If the tensor is not in blocks of 64 with F16 scales and zeros.
    """
    if tensor.zeros is None or tensor.dtype != "F16" or tensor.group_size != BLOCK_SIZE:
        raise InvalidTensorError(
            f"tensor: found groups of {tensor.group_size} with {tensor.dtype} "
            f"{'biases' if tensor.zeros is None else 'zeros'}, expected blocks of {BLOCK_SIZE} "
            "with F16 zeros"
        )
    widths = np.ascontiguousarray(tensor.bit_map).reshape(-1)
    return {
        "qweight": tensor.packed,
        "scales": tensor.scales.reshape(-1),
        "zeros": tensor.zeros.reshape(-1),
        "bit_map": widths,
        "block_offsets": block_offsets(widths),
        "shape": np.array(tensor.shape, dtype="<i8"),
    }


def block_offsets(widths: NDArray[np.uint8], block_size: int = BLOCK_SIZE) -> NDArray[np.uint32]:
    """Where each block begins in `qweight`, modulo 2**32; uint32 `[blocks]`.

    A tensor may be larger than 4 GiB: the widths tell how often the offsets have wrapped.
    """
    return group_offsets(widths, block_size, np.uint32)


def read_module(
    directory: Path,
    config: Mapping[str, Any],
    manifest_block_size: int,
    tensors: Mapping[str, StoredTensor],
    path: str,
) -> QuantizedTensor:
    """The quantized tensor of a module; memory-mapped, and its maps read.

    Raises:
        InvalidFileError: If its tensors do not fit together.
    """
    parts = {
        part: tensors[f"{path}.{part}"] for part in READABLE_PARTS if f"{path}.{part}" in tensors
    }
    qweight, scales = parts.get("qweight"), parts.get("scales")
    zeros_or_biases = parts.get("biases") or parts.get("zeros")
    if qweight is None or scales is None or zeros_or_biases is None:
        missing = "qweight" if qweight is None else "scales" if scales is None else "zeros"
        raise InvalidFileError(directory, f"{path}.{missing}", "nothing", "a tensor")
    blocks = _size(scales)
    _check_parts(parts, blocks)
    shape, block_size = _shape(directory, config, manifest_block_size, parts, path, blocks)
    by_block = (*shape[:-1], -(-shape[-1] // block_size))
    bit_map = _bit_map(directory, parts, path, by_block)
    _check_maps(parts, bit_map, block_size)
    stored = zeros_or_biases.map().reshape(by_block)
    return QuantizedTensor(
        packed=qweight.map().reshape(-1),
        bit_map=bit_map,
        scales=scales.map().reshape(by_block),
        biases=stored if "biases" in parts else None,
        zeros=None if "biases" in parts else stored,
        shape=shape,
        group_size=block_size,
        dtype=scales.spec.dtype,
    )


def _size(tensor: StoredTensor) -> int:
    return int(np.prod(tensor.spec.shape, dtype=object))


def _check_parts(parts: Mapping[str, StoredTensor], blocks: int) -> None:
    """Types of all parts, and the sizes of those with one number a block."""
    dtypes = {"qweight": ("U8",), "bit_map": ("U8",), "bits": ("U8",), "block_offsets": ("U32",)}
    dtypes |= {"shape": ("I64",), "scales": FLOATS}
    for part, tensor in parts.items():
        allowed = dtypes.get(part, (parts["scales"].spec.dtype,))
        if tensor.spec.dtype not in allowed:
            field = f"{tensor.spec.name}.dtype"
            raise InvalidFileError(tensor.file, field, tensor.spec.dtype, f"{' or '.join(allowed)}")
        if part not in ("qweight", "bits", "shape") and (_size(tensor) != blocks or not blocks):
            found = f"{_size(tensor)} numbers"
            wanted = f"{blocks or 'one or more'}, one for each block"
            raise InvalidFileError(tensor.file, tensor.spec.name, found, wanted)


def _shape(
    directory: Path,
    config: Mapping[str, Any],
    manifest_block_size: int,
    parts: Mapping[str, StoredTensor],
    path: str,
    blocks: int,
) -> tuple[tuple[int, ...], int]:
    """Shape of the values, and the size of a block."""
    stored = parts.get("shape")
    if stored is None:
        values = blocks * manifest_block_size
        guessed = guess_shape(path, values, config)
        if guessed is None or guessed[-1] % manifest_block_size:
            wanted = f"a tensor, for config.json does not tell the shape of {values} values"
            raise InvalidFileError(directory, f"{path}.shape", "nothing", wanted)
        return guessed, manifest_block_size
    if not 2 <= _size(stored) <= _MOST_DIMENSIONS:
        found = f"{_size(stored)} sizes"
        raise InvalidFileError(stored.file, stored.spec.name, found, "2 to 8 sizes")
    shape = tuple(int(size) for size in stored.map().reshape(-1))
    if not all(0 < size < 2**40 for size in shape):
        raise InvalidFileError(stored.file, stored.spec.name, list(shape), "sizes of 1 or more")
    rows = int(np.prod(shape[:-1], dtype=object))
    for block_size in sorted(GROUP_SIZES, key=lambda size: size != manifest_block_size):
        if rows * -(-shape[-1] // block_size) == blocks:
            return shape, block_size
    wanted = f"rows of whole blocks, {blocks} in all"
    raise InvalidFileError(stored.file, stored.spec.name, list(shape), wanted)


def _bit_map(
    directory: Path, parts: Mapping[str, StoredTensor], path: str, by_block: tuple[int, ...]
) -> NDArray[np.uint8]:
    if "bit_map" in parts:
        stored = parts["bit_map"]
        widths = stored.map().reshape(by_block)
    elif "bits" in parts and _size(parts["bits"]) == 1:
        stored = parts["bits"]
        widths = stored.map().reshape(-1)
    else:
        found = "nothing" if "bits" not in parts else f"bits for {_size(parts['bits'])}"
        raise InvalidFileError(directory, f"{path}.bit_map", found, "a tensor")
    wrong = np.flatnonzero(~np.isin(widths, BIT_WIDTHS))
    if wrong.size:
        field = f"{stored.spec.name}[{int(wrong[0])}]"
        found = int(widths.reshape(-1)[wrong[0]])
        raise InvalidFileError(stored.file, field, found, f"one of {BIT_WIDTHS}")
    return widths if "bit_map" in parts else uniform_bit_map(int(widths[0]), by_block)


def _check_maps(
    parts: Mapping[str, StoredTensor], bit_map: NDArray[np.uint8], block_size: int
) -> None:
    """The widths add up to the packed bytes, and the offsets follow from the widths."""
    qweight, stored = parts["qweight"], parts.get("block_offsets")
    nbytes = int(bit_map.sum(dtype=np.int64)) * (block_size // 8)
    if nbytes != _size(qweight):
        found = f"{_size(qweight)} bytes"
        raise InvalidFileError(qweight.file, qweight.spec.name, found, f"{nbytes} by the bit map")
    if stored is not None:
        offsets = block_offsets(np.ascontiguousarray(bit_map).reshape(-1), block_size)
        wrong = np.flatnonzero(stored.map().reshape(-1) != offsets)
        if wrong.size:
            field = f"{stored.spec.name}[{int(wrong[0])}]"
            found = int(stored.map().reshape(-1)[wrong[0]])
            raise InvalidFileError(stored.file, field, found, f"{int(offsets[wrong[0]])}")
