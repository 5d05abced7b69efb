"""The in-memory form of a quantized tensor of either layout, and what it stands for."""

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import decode_floats, encode_floats
from jang_format._errors import InvalidTensorError
from jang_format._packing import BIT_WIDTHS, check_bits, pack_codes, unpack_codes

GROUP_SIZES: Final = (32, 64, 128)

_Integer = TypeVar("_Integer", bound=np.integer[Any])


def check_group_size(group_size: int) -> None:
    """Raise InvalidTensorError unless `group_size` is one of `GROUP_SIZES`."""
    if group_size not in GROUP_SIZES:
        raise InvalidTensorError(f"group size: found {group_size}, expected one of {GROUP_SIZES}")


def quantized_bytes(shape: tuple[int, ...], bits: int, group_size: int) -> int:
    """Bytes of a tensor `[..., out, in]` in MLX layout with 16-bit scales and biases."""
    values = int(np.prod(shape, dtype=np.int64))
    return values * bits // 8 + values // group_size * 4


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor `[..., out, in]` whose groups of `group_size` inputs share width, scale and bias.

    `groups` is `ceil(in / group_size)`; the codes that fill up the last group of a row stand for
    nothing. A value is `code * scale + bias`, where a bias that is not stored is `-scale * zero`.

    Attributes:
        packed: Codes of group after group, row after row, low bit first; uint8 `[bytes]`.
        bit_map: Width of each group's codes, out of 2, 3, 4, 5, 6, 8; uint8 `[..., out, groups]`.
            One broadcast number where all are alike.
        scales: As stored (see `dtype`), `[..., out, groups]`.
        biases: As stored, the same shape; None where there are zeros (block layout).
        zeros: As stored, the same shape; None where there are biases (MLX layout).
        shape: Shape of the values, `[..., out, in]`.
        group_size: One of 32, 64, 128.
        dtype: Type of scales, biases and zeros: "F16", "BF16" or "F32".
    """

    packed: NDArray[np.uint8]
    bit_map: NDArray[np.uint8]
    scales: NDArray[Any]
    biases: NDArray[Any] | None
    zeros: NDArray[Any] | None
    shape: tuple[int, ...]
    group_size: int
    dtype: str

    @property
    def bits(self) -> int | None:
        """Width of all codes; None where the groups differ, or there are none."""
        if self.bit_map.size == 0:
            return None
        if any(self.bit_map.strides):
            lowest, highest = int(self.bit_map.min()), int(self.bit_map.max())
            return lowest if lowest == highest else None
        return int(self.bit_map.flat[0])

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases or zeros; block layout adds its maps to them."""
        return self.packed.nbytes + 2 * self.scales.nbytes


def assemble(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    biases: NDArray[np.float32],
    bits: int,
    dtype: str,
) -> QuantizedTensor:
    """Pack codes `[..., out, in]` with scales and biases `[..., out, groups]` stored as `dtype`.

    Raises:
        InvalidTensorError: If bits, group size or shapes do not fit each other, or a scale or bias
            is beyond the range of `dtype`.
    """
    return assemble_packed(pack_codes(codes, bits), scales, biases, bits, dtype)


def assemble_packed(
    words: NDArray[np.uint32],
    scales: NDArray[np.float32],
    biases: NDArray[np.float32],
    bits: int,
    dtype: str,
) -> QuantizedTensor:
    """Like `assemble`, with codes that are packed already, `[..., out, in // 32 * bits]`.

    Raises:
        InvalidTensorError: As `assemble` does.
    """
    check_bits(bits)
    columns = words.shape[-1] // bits * 32
    groups = scales.shape[-1] if scales.ndim else 0
    if scales.shape != biases.shape or words.shape[:-1] != scales.shape[:-1] or groups == 0:
        raise InvalidTensorError(
            f"scales: found {scales.shape} and biases {biases.shape}, expected groups of the codes "
            f"{(*words.shape[:-1], columns)}"
        )
    group_size = columns // groups
    check_group_size(group_size)
    return QuantizedTensor(
        packed=words.reshape(-1).view(np.uint8),
        bit_map=uniform_bit_map(bits, scales.shape),
        scales=encode_floats(scales, dtype),
        biases=encode_floats(biases, dtype),
        zeros=None,
        shape=(*words.shape[:-1], columns),
        group_size=group_size,
        dtype=dtype,
    )


def uniform_bit_map(bits: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A bit map `shape` of one width, which takes one byte of memory."""
    check_bits(bits)
    return np.broadcast_to(np.uint8(bits), shape)


def dequantize(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """The values `[..., out, in]` in float32: the reference for every faster path.

    Product and sum are rounded one after the other, as MLX's CPU kernel does in float32. With
    16-bit scales the product is exact, so that a fused multiply-add gives the same bits, and with
    zeros the result is the float32 nearest to `(code - zero) * scale`.
    """
    codes = unpack_groups(tensor)
    values = codes.astype(np.float32)
    # Scales of a file may be infinite or no numbers; so are the values then, without a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        values *= decode_floats(tensor.scales, tensor.dtype)[..., None]
        values += bias_values(tensor)[..., None]
    *leading, groups = tensor.scales.shape
    by_row = values.reshape(*leading, groups * tensor.group_size)
    return by_row[..., : tensor.shape[-1]]


def bias_values(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """Biases `[..., out, groups]` in float32; from zeros they are exact for 16-bit scales."""
    if tensor.biases is not None:
        return decode_floats(tensor.biases, tensor.dtype)
    if tensor.zeros is None:
        raise InvalidTensorError("tensor: found neither biases nor zeros, expected one of them")
    scales = decode_floats(tensor.scales, tensor.dtype)
    # 0 - x rather than -x: no negative zero where the zero point is 0.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.float32(0) - scales * decode_floats(tensor.zeros, tensor.dtype)


def unpack_groups(tensor: QuantizedTensor) -> NDArray[np.uint8]:
    """The codes by group, uint8 `[..., out, groups, group_size]`, padding included."""
    by_group = (*tensor.scales.shape, tensor.group_size)
    if tensor.bits is not None:
        words = tensor.packed.view("<u4")
        return unpack_codes(words.reshape(1, -1), tensor.bits).reshape(by_group)
    widths = tensor.bit_map.reshape(-1)
    starts = group_offsets(widths, tensor.group_size)
    codes = np.empty((widths.size, tensor.group_size), dtype=np.uint8)
    for bits in BIT_WIDTHS:
        chosen = np.flatnonzero(widths == bits)
        nbytes = tensor.group_size * bits // 8
        places = starts[chosen, None] + np.arange(nbytes, dtype=np.int64)
        words = tensor.packed[places].view("<u4")
        codes[chosen] = unpack_codes(words, bits)
    return codes.reshape(by_group)


def pack_groups(codes: NDArray[np.uint8], bit_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack codes `[..., groups, group_size]`, each group in its width, into bytes `[bytes]`.

    Raises:
        InvalidTensorError: If a width is no bit width, or a code does not fit into its width.
    """
    group_size = codes.shape[-1]
    widths = np.ascontiguousarray(bit_map).reshape(-1)
    groups = codes.reshape(-1, group_size)
    check_group_size(group_size)
    if widths.size != len(groups):
        raise InvalidTensorError(f"bit map: found {widths.size}, expected {len(groups)} widths")
    ends = np.cumsum(widths, dtype=np.int64) * (group_size // 8)
    packed = np.empty(int(ends[-1]) if ends.size else 0, dtype=np.uint8)
    starts = group_offsets(widths, group_size)
    for bits in (int(width) for width in np.unique(widths)):
        check_bits(bits)
        chosen = np.flatnonzero(widths == bits)
        if groups[chosen].max(initial=0) >= 2**bits:
            raise InvalidTensorError(f"codes: found {groups[chosen].max()} in {bits} bits")
        nbytes = group_size * bits // 8
        places = starts[chosen, None] + np.arange(nbytes, dtype=np.int64)
        packed[places] = pack_codes(groups[chosen], bits).view(np.uint8)
    return packed


def group_offsets(
    widths: NDArray[np.uint8], group_size: int, dtype: type[_Integer] = np.int64
) -> NDArray[_Integer]:
    """Where each group's bytes begin in the packed stream, modulo the range of `dtype`.

    Args:
        widths: Of each group, `[groups]`; so is what is returned.
        group_size: Codes of a group.
        dtype: Type of the offsets.
    """
    starts = np.zeros(widths.size, dtype=dtype)
    np.cumsum(widths[:-1], dtype=dtype, out=starts[1:])
    starts *= dtype(group_size // 8)
    return starts
