"""Symmetric matrices by their upper half, which is what a file needs."""

import numpy as np
from numba import njit, prange

from jang_quant._calibration.statistics import Floats


@njit(parallel=True, cache=True)
def _fold(matrix: Floats, upper: Floats) -> None:
    size = matrix.shape[0]
    for row in prange(size):
        start = row * size - row * (row - 1) // 2
        for column in range(row, size):
            upper[start + column - row] = matrix[row, column]


@njit(parallel=True, cache=True)
def _unfold(upper: Floats, matrix: Floats) -> None:
    size = matrix.shape[0]
    for row in prange(size):
        start = row * size - row * (row - 1) // 2
        for column in range(row, size):
            matrix[row, column] = upper[start + column - row]
            matrix[column, row] = upper[start + column - row]


def upper_of(matrix: Floats) -> Floats:
    """The upper half of a symmetric matrix `[n, n]`, row after row, `[n * (n + 1) / 2]`."""
    upper = np.empty(folded_size(len(matrix)), dtype=np.float32)
    _fold(matrix, upper)
    return upper


def from_upper(upper: Floats, size: int) -> Floats:
    """The symmetric matrix `[size, size]` of an upper half."""
    matrix = np.empty((size, size), dtype=np.float32)
    _unfold(upper, matrix)
    return matrix


def folded_size(size: int) -> int:
    """Values in the upper half of a matrix `[size, size]`."""
    return size * (size + 1) // 2
