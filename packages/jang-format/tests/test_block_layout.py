"""Block layout: bytes, widths that really vary, and what old files have."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jang_format import (
    BIT_WIDTHS,
    InvalidTensorError,
    QuantizedTensor,
    assemble_blocks,
    block_arrays,
    block_offsets,
    decode_floats,
    dequantize,
)


def random_tensor(seed: int, shape: tuple[int, ...], widths: tuple[int, ...]) -> QuantizedTensor:
    """A tensor whose blocks have these widths, drawn at random."""
    random = np.random.default_rng(seed)
    by_block = (*shape[:-1], -(-shape[-1] // 64))
    bit_map = random.choice(np.array(widths, dtype=np.uint8), by_block)
    columns = np.repeat(bit_map, 64, axis=-1)[..., : shape[-1]]
    codes = random.integers(0, 256, shape, dtype=np.uint8) & (2**columns - 1).astype(np.uint8)
    scales = random.normal(size=by_block).astype(np.float32)
    zeros = random.uniform(-300, 300, size=by_block).astype(np.float32)
    return assemble_blocks(codes, scales, zeros, bit_map)


def slow_values(tensor: QuantizedTensor) -> list[Fraction]:
    """Every value by the words of the specification: one big number, read bit by bit."""
    stream = int.from_bytes(tensor.packed.tobytes(), "little")
    assert tensor.zeros is not None
    scales = decode_floats(tensor.scales, "F16").reshape(-1).tolist()
    zeros = decode_floats(tensor.zeros, "F16").reshape(-1).tolist()
    blocks = tensor.scales.shape[-1]
    values: list[Fraction] = []
    position = 0
    for block, bits in enumerate(tensor.bit_map.reshape(-1).tolist()):
        for place in range(64):
            code = stream >> position & (2**bits - 1)
            position += bits
            if block % blocks * 64 + place < tensor.shape[-1]:
                values.append((code - Fraction(zeros[block])) * Fraction(scales[block]))
    assert position == 8 * tensor.packed.size
    return values


@given(
    seed=st.integers(0, 2**32),
    widths=st.lists(st.sampled_from(BIT_WIDTHS), min_size=1, unique=True).map(tuple),
    shape=st.sampled_from([(1, 1), (3, 64), (2, 100), (4, 256), (2, 3, 130), (1, 2, 63)]),
)
def test_each_value_is_the_float32_nearest_to_code_minus_zero_times_scale(
    seed: int, widths: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    tensor = random_tensor(seed, shape, widths)
    expected = np.array([float(value) for value in slow_values(tensor)], dtype=np.float64)
    np.testing.assert_array_equal(dequantize(tensor).reshape(-1), expected.astype(np.float32))


def test_blocks_of_two_widths_have_these_very_bytes() -> None:
    codes = np.zeros((1, 128), dtype=np.uint8)
    codes[0, :8] = [5, 3, 7, 1, 0, 6, 2, 4]
    codes[0, 64:68] = [1, 2, 3, 0]
    scales = np.array([[0.5, 2.0]], dtype=np.float32)
    zeros = np.array([[4.0, 1.5]], dtype=np.float32)
    bit_map = np.array([[3, 2]], dtype=np.uint8)
    parts = block_arrays(assemble_blocks(codes, scales, zeros, bit_map))
    assert parts["qweight"].tobytes() == b"\xdd\x03\x8b" + bytes(21) + b"\x39" + bytes(15)
    assert parts["scales"].tobytes() == b"\x00\x38\x00\x40"
    assert parts["zeros"].tobytes() == b"\x00\x44\x00\x3e"
    assert parts["bit_map"].tobytes() == b"\x03\x02"
    assert parts["block_offsets"].tobytes() == b"\x00\x00\x00\x00\x18\x00\x00\x00"
    assert parts["shape"].tobytes() == b"\x01" + bytes(7) + b"\x80" + bytes(7)


def test_offsets_past_4_gib_wrap_and_nothing_else_changes() -> None:
    # 8-bit blocks of 64 bytes: the block of this number begins at exactly 4 GiB.
    first_beyond = 2**32 // 64
    widths = np.full(first_beyond + 2, 8, dtype=np.uint8)
    offsets = block_offsets(widths)
    assert offsets.dtype == np.uint32
    assert offsets[[0, 1, first_beyond - 1]].tolist() == [0, 64, 2**32 - 64]
    assert offsets[first_beyond:].tolist() == [0, 64]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bit_map": np.full((2, 1), 7, np.uint8)}, "bits: found 7"),
        ({"codes": np.full((2, 64), 4, np.uint8)}, "codes: found 4 in 2 bits"),
        ({"scales": np.ones((2, 2), np.float32)}, r"scales: found \(2, 2\)"),
        ({"zeros": np.full((2, 1), 70000, np.float32)}, "expected at most 65504"),
        ({"scales": np.full((2, 1), np.nan, np.float32)}, "expected at most 65504"),
    ],
)
def test_what_does_not_fit_into_blocks_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "codes": np.zeros((2, 64), np.uint8),
        "scales": np.ones((2, 1), np.float32),
        "zeros": np.ones((2, 1), np.float32),
        "bit_map": np.full((2, 1), 2, np.uint8),
    }
    assemble_blocks(**good)
    with pytest.raises(InvalidTensorError, match=message):
        assemble_blocks(**(good | change))
