"""The in-memory form of a quantized tensor, and what it stands for."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import decode_floats, encode_floats
from jang_format._errors import InvalidTensorError
from jang_format._packing import check_bits, pack_codes, unpack_codes

GROUP_SIZES: Final = (32, 64, 128)


def check_group_size(group_size: int) -> None:
    """Raise InvalidTensorError unless `group_size` is one of `GROUP_SIZES`."""
    if group_size not in GROUP_SIZES:
        raise InvalidTensorError(f"group size: found {group_size}, expected one of {GROUP_SIZES}")


def quantized_bytes(shape: tuple[int, ...], bits: int, group_size: int) -> int:
    """Bytes of a tensor `[..., out, in]` quantized with 16-bit scales and biases."""
    values = int(np.prod(shape, dtype=np.int64))
    return values * bits // 8 + values // group_size * 4


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor `[..., out, in]` whose groups of `group_size` inputs share scale and bias.

    A value is `code * scale + bias`.

    Attributes:
        weight: Packed codes, uint32 `[..., out, in // 32 * bits]`.
        scales: As stored (see `dtype`), `[..., out, in // group_size]`.
        biases: As stored, the same shape.
        bits: One of 2, 3, 4, 5, 6, 8.
        group_size: One of 32, 64, 128.
        dtype: Type of scales and biases: "F16", "BF16" or "F32".
    """

    weight: NDArray[np.uint32]
    scales: NDArray[Any]
    biases: NDArray[Any]
    bits: int
    group_size: int
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values, `[..., out, in]`."""
        return (*self.scales.shape[:-1], self.scales.shape[-1] * self.group_size)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases."""
        return self.weight.nbytes + self.scales.nbytes + self.biases.nbytes


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
    groups = scales.shape[-1] if scales.ndim else 0
    if scales.shape != biases.shape or codes.shape[:-1] != scales.shape[:-1] or groups == 0:
        raise InvalidTensorError(
            f"scales: found {scales.shape} and biases {biases.shape}, expected groups of the codes "
            f"{codes.shape}"
        )
    group_size = codes.shape[-1] // groups
    check_group_size(group_size)
    return QuantizedTensor(
        weight=pack_codes(codes, bits),
        scales=encode_floats(scales, dtype),
        biases=encode_floats(biases, dtype),
        bits=bits,
        group_size=group_size,
        dtype=dtype,
    )


def dequantize(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """The values `[..., out, in]` in float32: the reference for every faster path.

    Product and sum are rounded one after the other, as MLX's CPU kernel does in float32.
    """
    check_bits(tensor.bits)
    codes = unpack_codes(tensor.weight, tensor.bits)
    grouped = codes.reshape(*tensor.scales.shape, tensor.group_size).astype(np.float32)
    grouped *= decode_floats(tensor.scales, tensor.dtype)[..., None]
    grouped += decode_floats(tensor.biases, tensor.dtype)[..., None]
    return grouped.reshape(tensor.shape)
