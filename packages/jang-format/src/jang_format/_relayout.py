"""One quantized tensor from either layout into the other."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jang_format._block_layout import BLOCK_SIZE, assemble_blocks, block_specs
from jang_format._dtypes import LARGEST_F16, decode_floats, encode_floats
from jang_format._errors import InvalidTensorError
from jang_format._mlx_layout import mlx_specs
from jang_format._packing import pack_codes
from jang_format._quantized import (
    QuantizedTensor,
    bias_values,
    dequantize,
    pack_groups,
    uniform_bit_map,
    unpack_groups,
)
from jang_format._safetensors import TensorSpec

_SMALLEST_GROUP: Final = 32
# From here on a zero point rounded to F16 is off by a whole step or more.
_LARGEST_ZERO: Final = 4096.0
_SMALLEST_F16: Final = 2.0**-24

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MlxForm:
    """Width and group size that a tensor has in MLX layout."""

    bits: int
    group_size: int


def mlx_form(tensor: QuantizedTensor, *, requantize: bool) -> MlxForm:
    """What a tensor will have in MLX layout.

    Raises:
        InvalidTensorError: If it has several widths and is not to be requantized, or rows that no
            group size divides.
    """
    group_size = tensor.group_size
    if tensor.shape[-1] % group_size:
        group_size = _SMALLEST_GROUP
    if tensor.shape[-1] % group_size:
        raise InvalidTensorError(
            f"inputs: found {tensor.shape[-1]}, expected a multiple of 32 for MLX layout"
        )
    if tensor.bits is None and not requantize:
        widths = np.unique(tensor.bit_map).tolist()
        raise InvalidTensorError(
            f"bit_map: found blocks of {widths} bits, expected one width for MLX layout; "
            f"--requantize gives all of them {max(widths)}"
        )
    return MlxForm(bits=tensor.bits or int(tensor.bit_map.max()), group_size=group_size)


def specs_for_mlx(path: str, tensor: QuantizedTensor, form: MlxForm) -> list[TensorSpec]:
    """The tensors that `to_mlx` makes of a tensor."""
    return mlx_specs(path, tensor.shape, form.bits, form.group_size, tensor.dtype)


def to_mlx(tensor: QuantizedTensor, form: MlxForm) -> QuantizedTensor:
    """The tensor with one width, whole groups in each row, and biases.

    With one width the packed bytes stay as they are. Blocks of several widths keep their codes,
    scales and zeros in codes of the widest, so that no value changes. Biases that come from zeros
    are rounded to the type of the scales: by at most 2**-11 of their size.

    Raises:
        InvalidTensorError: If a bias is beyond the range of its type.
    """
    biases = tensor.biases
    if biases is None:
        biases = encode_floats(bias_values(tensor), tensor.dtype)
    by_group = (*tensor.shape[:-1], tensor.shape[-1] // form.group_size)
    splits = tensor.group_size // form.group_size
    packed, scales = tensor.packed, tensor.scales
    if splits > 1 or tensor.bits is None:
        codes = unpack_groups(tensor).reshape(*tensor.scales.shape[:-1], -1)
        packed = pack_codes(codes[..., : tensor.shape[-1]], form.bits).reshape(-1).view(np.uint8)
    if splits > 1:
        scales = np.repeat(scales, splits, axis=-1)[..., : by_group[-1]]
        biases = np.repeat(biases, splits, axis=-1)[..., : by_group[-1]]
    return QuantizedTensor(
        packed=packed,
        bit_map=uniform_bit_map(form.bits, by_group),
        scales=scales,
        biases=biases,
        zeros=None,
        shape=tensor.shape,
        group_size=form.group_size,
        dtype=tensor.dtype,
    )


def specs_for_blocks(path: str, tensor: QuantizedTensor, *, requantize: bool) -> list[TensorSpec]:
    """The tensors that `to_blocks` makes of a tensor.

    Raises:
        InvalidTensorError: If its groups are smaller than blocks and are not to be requantized.
    """
    if tensor.group_size >= BLOCK_SIZE:
        rows_end_in_blocks = tensor.shape[-1] % tensor.group_size == 0
        if rows_end_in_blocks or tensor.group_size == BLOCK_SIZE:
            return block_specs(path, tensor.shape, tensor.packed.nbytes)
    elif not requantize:
        raise InvalidTensorError(
            f"group_size: found {tensor.group_size}, expected {BLOCK_SIZE} or more for block "
            "layout; --requantize fits one scale to each block"
        )
    if tensor.bits is None:
        raise InvalidTensorError(f"bit_map: found several widths in groups of {tensor.group_size}")
    blocks = int(np.prod(tensor.shape[:-1])) * -(-tensor.shape[-1] // BLOCK_SIZE)
    return block_specs(path, tensor.shape, blocks * BLOCK_SIZE // 8 * tensor.bits)


def to_blocks(tensor: QuantizedTensor) -> QuantizedTensor:
    """The tensor in blocks of 64 with F16 scales and zeros.

    Groups of 64 and 128 keep their codes; a value moves by at most one step, and by far less where
    the zero point is small. Groups of 32 are fitted anew, two to a block.

    Raises:
        InvalidTensorError: If a scale is beyond F16.
    """
    if tensor.group_size < BLOCK_SIZE:
        return _fit_blocks(dequantize(tensor), tensor.bits or int(tensor.bit_map.max()))
    if tensor.zeros is None or tensor.dtype != "F16":
        tensor = _with_zeros(tensor)
    splits = tensor.group_size // BLOCK_SIZE
    if splits == 1 or tensor.zeros is None:
        return tensor
    return replace(
        tensor,
        bit_map=np.repeat(tensor.bit_map, splits, axis=-1),
        scales=np.repeat(tensor.scales, splits, axis=-1),
        zeros=np.repeat(tensor.zeros, splits, axis=-1),
        group_size=BLOCK_SIZE,
    )


def _with_zeros(tensor: QuantizedTensor) -> QuantizedTensor:
    """The tensor with F16 scales, and zeros in place of biases."""
    exact = decode_floats(tensor.scales, tensor.dtype)
    biases = bias_values(tensor)
    scales = decode_floats(encode_floats(exact, "F16"), "F16")
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where((biases == 0) & (scales == 0), np.float32(0), -biases / scales)
    awkward = ~(np.abs(zeros) <= _LARGEST_ZERO)
    packed = tensor.packed
    if awkward.any():
        # A power of two divides a bias without rounding; the codes make up for the other step.
        steps = _power_of_two_steps(exact[awkward], biases[awkward])
        codes = unpack_groups(tensor)
        ratio = (exact[awkward] / steps)[:, None]
        codes[awkward] = np.rint(codes[awkward] * ratio).astype(np.uint8)
        packed = pack_groups(codes, tensor.bit_map)
        scales[awkward], zeros[awkward] = steps, -biases[awkward] / steps
    return replace(
        tensor,
        packed=packed,
        scales=encode_floats(scales, "F16"),
        biases=None,
        zeros=encode_floats(zeros.astype(np.float32), "F16"),
        dtype="F16",
    )


def _power_of_two_steps(scales: Floats, biases: Floats) -> Floats:
    """Powers of two, not below the scales, by which the biases divide to what F16 holds."""
    least = np.maximum(np.abs(scales), np.abs(biases) / np.float32(LARGEST_F16))
    exponents = np.ceil(np.log2(np.maximum(least, np.float32(_SMALLEST_F16))))
    return np.copysign(np.exp2(exponents), scales).astype(np.float32)


def _fit_blocks(values: Floats, bits: int) -> QuantizedTensor:
    """Values `[..., out, in]` in blocks whose grids span their ranges."""
    *leading, columns = values.shape
    padding = -columns % BLOCK_SIZE
    # The last value again and again does not widen the range of the last block.
    padded = np.pad(values, [(0, 0)] * len(leading) + [(0, padding)], mode="edge")
    blocks = padded.reshape(*leading, -1, BLOCK_SIZE)
    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    scales = decode_floats(encode_floats((high - low) / np.float32(2**bits - 1), "F16"), "F16")
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where((low == 0) & (scales == 0), np.float32(0), -low / scales)
    awkward = ~(np.abs(zeros) <= _LARGEST_ZERO)
    scales[awkward] = _power_of_two_steps(scales[awkward], low[awkward])
    zeros[awkward] = -low[awkward] / scales[awkward]
    zeros = decode_floats(encode_floats(zeros.astype(np.float32), "F16"), "F16")
    divisors = np.where(scales == 0, np.float32(1), scales)[..., None]
    codes = np.clip(np.rint(blocks / divisors + zeros[..., None]), 0, 2**bits - 1)
    flat = codes.astype(np.uint8).reshape(*leading, -1)[..., :columns]
    return assemble_blocks(flat, scales, zeros, np.full(scales.shape, bits, dtype=np.uint8))
