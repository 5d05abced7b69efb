"""Bit packing: golden bytes, and a slow obvious stream of bits as the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jang_format import BIT_WIDTHS, InvalidTensorError, pack_codes, unpack_codes


def bytes_of_stream(codes: list[int], bits: int) -> bytes:
    """The codes as one stream of bits, low bit first, eight to a byte."""
    stream = [(code >> place) & 1 for code in codes for place in range(bits)]
    return bytes(
        sum(bit << place for place, bit in enumerate(stream[start : start + 8]))
        for start in range(0, len(stream), 8)
    )


@pytest.mark.parametrize(
    ("bits", "codes", "golden"),
    [
        (2, [1, 2, 3, 0], "39"),
        (3, [5, 3, 7, 1, 0, 6, 2, 4], "dd038b"),
        (4, [1, 2, 15, 0], "210f"),
        (5, [1, 2, 3, 4, 5, 6, 7, 8], "410c52cc41"),
        (6, [1, 2, 3, 4], "813010"),
        (8, [0, 1, 254, 255], "0001feff"),
    ],
)
def test_codes_become_these_bytes(bits: int, codes: list[int], golden: str) -> None:
    row = np.zeros(32, dtype=np.uint8)
    row[: len(codes)] = codes
    packed = pack_codes(row, bits).astype("<u4").tobytes()
    assert packed[: len(golden) // 2].hex() == golden
    assert not any(packed[len(golden) // 2 :])


@given(
    bits=st.sampled_from(BIT_WIDTHS),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    data=st.data(),
)
def test_packing_is_the_stream_of_bits_and_unpacking_its_inverse(
    bits: int, shape: tuple[int, int, int], data: st.DataObject
) -> None:
    experts, rows, chunks = shape
    codes = data.draw(
        hnp.arrays(np.uint8, (experts, rows, chunks * 32), elements=st.integers(0, 2**bits - 1))
    )
    packed = pack_codes(codes, bits)
    assert packed.shape == (experts, rows, chunks * bits)
    assert packed.astype("<u4").tobytes() == bytes_of_stream(codes.reshape(-1).tolist(), bits)
    np.testing.assert_array_equal(unpack_codes(packed, bits), codes)


@pytest.mark.parametrize("bits", [0, 1, 7, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(InvalidTensorError, match=f"found {bits}, expected one of"):
        pack_codes(np.zeros(32, dtype=np.uint8), bits)


def test_rows_that_do_not_fill_words_are_refused() -> None:
    with pytest.raises(InvalidTensorError, match="found 33 columns, expected a multiple of 32"):
        pack_codes(np.zeros((2, 33), dtype=np.uint8), 4)
    with pytest.raises(InvalidTensorError, match="found 4 columns, expected a multiple of 3"):
        unpack_codes(np.zeros((2, 4), dtype=np.uint32), 3)
