"""Mean squares of the gradients that come back to a stage's modules."""

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from jang_quant._calibration.inputs import evaluate
from jang_quant._calibration.stages import Run
from jang_quant._calibration.statistics import Floats
from jang_quant._calibration.taps import Visit

# From what a stage gives to the number whose gradient is taken.
Objective = Callable[[mx.array], mx.array]
_Arrays = dict[str, mx.array]


class GradientObserver:
    """Sums squared gradients with respect to the outputs of modules."""

    def __init__(self) -> None:
        self._outputs = _Sums()
        self._lookups = _Sums()
        self._shapes: dict[str, tuple[int, ...]] = {}
        # Added to looked-up values, so that the gradient goes all the way to them.
        self._offsets: _Arrays = {}

    def __call__(self, visit: Visit) -> mx.array:
        """Watch what comes back to a module's output."""
        y = visit.apply(visit.x)
        if visit.transposed:
            return y
        if not visit.looks_up:
            return _watched(y, lambda back: self._outputs.add(visit.path, *_by_matrix(visit, back)))
        self._shapes[visit.path] = tuple(y.shape)
        offset = self._offsets.get(visit.path)
        moved = y if offset is None else y + offset
        return _watched(moved, lambda back: self._lookups.add(visit.path, *_by_matrix(visit, back)))

    def go_back(
        self, run: Run, tokens: mx.array, hidden: mx.array, objective: Objective
    ) -> mx.array:
        """Run a stage forwards and backwards; returns the gradient of its hidden states."""
        self._offsets = {}
        # Computes nothing: it only tells the shapes.
        run(tokens, hidden)
        zeros = {path: mx.zeros(shape) for path, shape in self._shapes.items()}

        def total(point: tuple[mx.array, _Arrays]) -> mx.array:
            self._offsets = point[1]
            return objective(run(tokens, point[0]))

        # What the traces before this one have noted is not part of it.
        self._outputs.pending.clear()
        self._lookups.pending.clear()
        gradient, of_lookups = cast(Any, mx).grad(total)((hidden, zeros))
        self._outputs.add_up()
        self._lookups.add_up()
        evaluate(gradient, of_lookups)
        return cast(mx.array, gradient)

    def outputs(self) -> dict[str, Floats]:
        """Mean square of the gradient of each output, `[stack, out]`, by module."""
        return self._outputs.means()

    def lookups(self) -> dict[str, Floats]:
        """The same for what embeddings gave, `[in]`."""
        return {path: means[0] for path, means in self._lookups.means().items()}


class _Sums:
    """Sums `[stack, out]` and counts `[stack]` by module."""

    def __init__(self) -> None:
        self.pending: list[tuple[str, mx.array, mx.array]] = []
        self._sums: _Arrays = {}
        self._counts: _Arrays = {}

    def add(self, path: str, squares: mx.array, counts: mx.array) -> None:
        self.pending.append((path, squares, counts))

    def add_up(self) -> None:
        for path, squares, counts in self.pending:
            found = path in self._sums
            self._sums[path] = self._sums[path] + squares if found else squares
            self._counts[path] = self._counts[path] + counts if found else counts
        self.pending.clear()
        evaluate(self._sums, self._counts)

    def means(self) -> dict[str, Floats]:
        return {path: _means(sums, self._counts[path]) for path, sums in self._sums.items()}


def _means(sums: mx.array, counts: mx.array) -> Floats:
    """Means `[stack, out]`; a matrix that nothing went through has that of all of them."""
    pooled = sums.sum(axis=0) / mx.maximum(counts.sum(), 1)
    own = sums / mx.maximum(counts, 1)[:, None]
    return cast(Floats, np.array(mx.where(counts[:, None] > 0, own, pooled[None])))


def _by_matrix(visit: Visit, gradient: mx.array) -> tuple[mx.array, mx.array]:
    """Sums of squares `[stack, out]` and numbers of outputs `[stack]` of each matrix."""
    squares: Any = mx.square(gradient)
    outputs = gradient.shape[-1]
    if visit.experts is not None:
        numbers = mx.flatten(visit.experts)
        zeros: Any = mx.zeros((visit.stack, outputs))
        counts = cast(Any, mx.zeros((visit.stack,))).at[numbers].add(mx.ones(numbers.shape))
        return zeros.at[numbers].add(squares.reshape(-1, outputs)), counts
    if visit.stack == 1:
        rows = squares.size // outputs
        return squares.reshape(-1, outputs).sum(axis=0)[None], mx.array([float(rows)])
    # `[..., heads, length, out]`
    by_head = cast(Any, mx.moveaxis(squares, -3, 0)).reshape(visit.stack, -1, outputs)
    return by_head.sum(axis=1), mx.full((visit.stack,), float(by_head.shape[1]))


def sampled_labels(seed: int) -> Objective:
    """The log-likelihood, negated, of labels that the model itself draws."""

    def objective(logits: mx.array) -> mx.array:
        fixed = mx.stop_gradient(logits)
        labels = mx.random.categorical(fixed, key=mx.random.key(seed))
        return nn.losses.cross_entropy(logits, labels, reduction="sum")

    return objective


def _watched(y: mx.array, note: Callable[[mx.array], None]) -> mx.array:
    """The same array, whose gradient is noted on the way back."""
    same = cast(Any, mx.custom_function(lambda value: value))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]

    def back(primals: Any, cotangent: mx.array, output: Any) -> mx.array:
        note(cotangent)
        return cotangent

    same.vjp(back)
    return cast(mx.array, same(y))
