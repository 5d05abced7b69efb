"""Float types and quantized tensors against slow references."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jang_format import (
    InvalidTensorError,
    assemble,
    decode_floats,
    dequantize,
    encode_floats,
    quantized_bytes,
)

finite_f32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def bf16_value(raw: int) -> Fraction:
    return Fraction(struct.unpack("<f", struct.pack("<I", raw << 16))[0])


# Half way between two bfloat16 values, which chance hardly ever finds.
ties = st.integers(0, 0x7F00).map(
    lambda raw: struct.unpack("<f", struct.pack("<I", raw << 16 | 0x8000))[0]
)


@given(finite_f32.filter(lambda x: abs(x) < 3e38) | ties)
def test_bf16_is_the_nearest_value_and_even_on_a_tie(value: float) -> None:
    raw = int(encode_floats(np.array([value], dtype=np.float32), "BF16")[0])
    exact = Fraction(float(np.float32(value)))
    error = abs(bf16_value(raw) - exact)
    # Neighbours in magnitude; the sign bit stays.
    for neighbour in (raw - 1, raw + 1):
        if (neighbour ^ raw) & 0x8000 == 0 and neighbour & 0x7FFF < 0x7F80:
            other = abs(bf16_value(neighbour) - exact)
            assert error < other or (error == other and raw % 2 == 0)


@given(st.lists(finite_f32, min_size=1, max_size=20))
def test_stored_floats_read_back_exactly(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    assert decode_floats(encode_floats(array, "F32"), "F32").tobytes() == array.tobytes()
    stored = encode_floats(np.clip(array, -1e30, 1e30), "BF16")
    again = encode_floats(decode_floats(stored, "BF16"), "BF16")
    np.testing.assert_array_equal(again, stored)


def test_values_beyond_f16_are_refused_not_made_infinite() -> None:
    with pytest.raises(InvalidTensorError, match=r"found 70000, expected at most 65504 for F16"):
        encode_floats(np.array([1.0, -70000.0], dtype=np.float32), "F16")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_dequantize_is_code_times_scale_plus_bias(bits: int, group_size: int, dtype: str) -> None:
    random = np.random.default_rng(bits * group_size)
    codes = random.integers(0, 2**bits, (2, 3, 256), dtype=np.uint8)
    groups = 256 // group_size
    scales = random.normal(size=(2, 3, groups)).astype(np.float32)
    biases = random.normal(size=(2, 3, groups)).astype(np.float32)
    tensor = assemble(codes, scales, biases, bits, dtype)
    stored_scales = decode_floats(tensor.scales, dtype)
    stored_biases = decode_floats(tensor.biases, dtype)
    values = dequantize(tensor)
    assert tensor.shape == values.shape == (2, 3, 256)
    for place in np.ndindex(2, 3, 256):
        expert, row, column = place
        group = (expert, row, column // group_size)
        expected = np.float32(codes[place]) * stored_scales[group] + stored_biases[group]
        assert values[place] == expected
    if dtype != "F32":
        assert tensor.nbytes == quantized_bytes((2, 3, 256), bits, group_size)


def test_groups_that_do_not_fit_the_codes_are_refused() -> None:
    codes = np.zeros((2, 96), dtype=np.uint8)
    one = np.ones((2, 1), dtype=np.float32)
    with pytest.raises(InvalidTensorError, match="group size: found 96"):
        assemble(codes, one, one, 4, "F16")
    with pytest.raises(InvalidTensorError, match="scales: found"):
        assemble(codes, one, np.ones((2, 3), dtype=np.float32), 4, "F16")
