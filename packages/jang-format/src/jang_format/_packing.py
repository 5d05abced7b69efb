"""Bit packing: codes to 32-bit words and back.

The codes of a row form one stream of bits, each code `bits` wide and its low bit first; the stream
is cut into little-endian 32-bit words. This is the order of MLX's quantized weights, and, read as
bytes, that of the block layout.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jang_format._errors import InvalidTensorError

BIT_WIDTHS: Final = (2, 3, 4, 5, 6, 8)

# 32 codes of any width fill a whole number of words, namely `bits`.
_CODES_PER_CHUNK: Final = 32


def check_bits(bits: int) -> None:
    """Raise InvalidTensorError unless `bits` is one of `BIT_WIDTHS`."""
    if bits not in BIT_WIDTHS:
        raise InvalidTensorError(f"bits: found {bits}, expected one of {BIT_WIDTHS}")


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Pack codes `[..., in]` below `2**bits` into words `[..., in // 32 * bits]`.

    Raises:
        InvalidTensorError: If `bits` is no bit width, or `in` is not a multiple of 32.
    """
    check_bits(bits)
    *leading, columns = codes.shape
    if columns % _CODES_PER_CHUNK:
        raise InvalidTensorError(f"codes: found {columns} columns, expected a multiple of 32")
    # One contiguous vector for each place in the chunk.
    places = np.ascontiguousarray(codes.reshape(-1, _CODES_PER_CHUNK).T).astype(np.uint32)
    words = np.zeros((bits, places.shape[1]), dtype=np.uint32)
    for place in range(_CODES_PER_CHUNK):
        word, shift = divmod(place * bits, 32)
        words[word] |= places[place] << np.uint32(shift)
        if shift + bits > 32:
            words[word + 1] |= places[place] >> np.uint32(32 - shift)
    return np.ascontiguousarray(words.T).reshape(*leading, columns // 32 * bits)


def unpack_codes(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Unpack words `[..., in // 32 * bits]` into codes `[..., in]`.

    Raises:
        InvalidTensorError: If `bits` is no bit width, or the words do not hold whole chunks.
    """
    check_bits(bits)
    *leading, columns = words.shape
    if columns % bits:
        raise InvalidTensorError(
            f"words: found {columns} columns, expected a multiple of {bits} for {bits} bits"
        )
    chunks = np.ascontiguousarray(words.reshape(-1, bits).T)
    mask = np.uint32(2**bits - 1)
    codes = np.empty((_CODES_PER_CHUNK, chunks.shape[1]), dtype=np.uint8)
    for place in range(_CODES_PER_CHUNK):
        word, shift = divmod(place * bits, 32)
        value = chunks[word] >> np.uint32(shift)
        if shift + bits > 32:
            value = value | (chunks[word + 1] << np.uint32(32 - shift))
        codes[place] = value & mask
    return np.ascontiguousarray(codes.T).reshape(*leading, columns // bits * 32)
