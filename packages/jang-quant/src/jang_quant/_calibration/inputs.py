"""Second moments of what goes into a stage's modules."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_quant._calibration.taps import Visit

# Open in mlx's stubs.
evaluate: Final = cast(Any, mx).eval


@dataclass(frozen=True)
class InputSums:
    """Sums over the inputs of one module, or of several that have one input.

    Attributes:
        sums: Of `x x^T`, `[in, in]`, by the number of the matrix in its stack.
        counts: How many inputs each of them saw.
        stack: How many matrices see inputs of their own.
    """

    sums: Mapping[int, mx.array]
    counts: Mapping[int, int]
    stack: int


class InputObserver:
    """Sums `x x^T` over the inputs of modules; those with one input share one sum."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, mx.array]] = defaultdict(dict)
        self._counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._stacks: dict[str, int] = {}
        self.key_of: dict[str, str] = {}
        # By the number of the array, which is kept as long as its number stands for it.
        self._seen: dict[int, tuple[str, Visit]] = {}

    def __call__(self, visit: Visit) -> mx.array:
        """Note the input of a module."""
        if not visit.looks_up and not visit.transposed:
            own = self.key_of.get(visit.path, visit.path)
            key, _ = self._seen.setdefault(id(visit.x), (own, visit))
            self.key_of.setdefault(visit.path, key)
        return visit.apply(visit.x)

    def add_up(self) -> None:
        """Add what was seen since the last time; call it after each run of the stage."""
        for key, visit in self._seen.values():
            for number, rows in _rows_by_matrix(visit):
                product = rows.T @ rows
                sums = self._sums[key]
                sums[number] = sums[number] + product if number in sums else product
                self._counts[key][number] += rows.shape[0]
            self._stacks[key] = _inputs_of_their_own(visit)
            evaluate(self._sums[key])
        self._seen.clear()

    def found(self) -> dict[str, InputSums]:
        """The sums, by the module that stands for all that share them (`key_of`)."""
        return {
            key: InputSums(sums, self._counts[key], self._stacks[key])
            for key, sums in self._sums.items()
        }


def _inputs_of_their_own(visit: Visit) -> int:
    if visit.experts is None and visit.stack > 1 and visit.x.shape[-3] == 1:
        return 1
    return visit.stack


def _rows_by_matrix(visit: Visit) -> list[tuple[int, mx.array]]:
    """What each matrix of a stack was given, `[n, in]` in float32."""
    x = visit.x.astype(mx.float32)
    if visit.experts is not None:
        return _rows_by_expert(x, visit.experts)
    if visit.stack == 1:
        return [(0, mx.flatten(x, 0, -2))]
    # `[..., heads or 1, length, in]`
    return [
        (number, mx.flatten(x[..., number, :, :], 0, -2))
        for number in range(_inputs_of_their_own(visit))
    ]


def _rows_by_expert(x: mx.array, experts: mx.array) -> list[tuple[int, mx.array]]:
    """Rows `[..., 1, in]` that go to the experts `[...]`, sorted by expert."""
    numbers = cast(NDArray[np.uint32], np.array(mx.flatten(experts)))
    rows = mx.flatten(mx.broadcast_to(x, (*experts.shape, *x.shape[-2:])), 0, -2)
    order = np.argsort(numbers, kind="stable")
    chosen, starts = np.unique(numbers[order], return_index=True)
    rows = rows[mx.array(order)]
    stops = [*starts[1:].tolist(), len(order)]
    return [
        (int(number), rows[start:stop])
        for number, start, stop in zip(chosen, starts.tolist(), stops, strict=True)
    ]
