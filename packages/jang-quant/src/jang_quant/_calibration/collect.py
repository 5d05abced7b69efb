"""Collecting statistics: second moments of inputs, squared gradients of outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from jang_quant._calibration.statistics import (
    Calibration,
    CalibrationText,
    Floats,
    Lookups,
    ModuleStatistics,
)
from jang_quant._calibration.taps import head_of, tapped

# Sequences that go backwards too, which takes twice as long.
DEFAULT_BACKWARD: Final = 32
_INTEGERS: Final = (mx.int32, mx.uint32, mx.int64)
_Apply = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Progress:
    """How far the collection is, in sequences run through the model."""

    done: int
    total: int
    what: str


def collect(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    text: CalibrationText,
    *,
    backward: int = DEFAULT_BACKWARD,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Calibration:
    """Run text through a model and note what its modules see.

    Args:
        model: The source model, evaluated, in float32.
        shapes: Shape of each module's weight `[out, in]`, by module path.
        text: The text.
        backward: How many of its sequences also go backwards.
        on_progress: Called after every sequence.
    """
    returning = text.tokens[:backward]
    total = len(text.tokens) + len(returning)
    inputs, gradients = _Inputs(), _Gradients()
    with tapped(model, shapes, inputs):
        for done, sequence in enumerate(text.tokens, 1):
            inputs.run(model, sequence)
            on_progress(Progress(done, total, "inputs"))
    with tapped(model, shapes, gradients):
        for number, sequence in enumerate(returning, 1):
            gradients.run(model, sequence, seed=text.seed + number)
            on_progress(Progress(len(text.tokens) + number, total, "gradients"))
    modules = {
        path: ModuleStatistics(
            hessian=_either(inputs.mean, path),
            gradients=_either(gradients.mean, path),
            lookups=_lookups(path, shape, text, gradients),
        )
        for path, shape in shapes.items()
    }
    return Calibration(text=text, modules=modules)


def _either(mean: Callable[[str], Floats | None], path: str) -> Floats | None:
    """Of a module itself, or of an embedding at work as the head."""
    found = mean(path)
    return mean(head_of(path)) if found is None else found


def _lookups(
    path: str, shape: tuple[int, ...], text: CalibrationText, gradients: "_Gradients"
) -> Lookups | None:
    looked_up = gradients.mean_lookup(path)
    if looked_up is None:
        return None
    counts = np.bincount(text.tokens.reshape(-1), minlength=shape[0])
    return Lookups((counts / counts.sum()).astype(np.float32), looked_up)


class _Inputs:
    """Sums of `x x^T` over every module's inputs; modules with one input share one sum."""

    def __init__(self) -> None:
        self._sums: dict[str, mx.array] = {}
        self._counts: dict[str, int] = {}
        self._key_of: dict[str, str] = {}
        self._means: dict[str, Floats] = {}
        self._seen: dict[int, tuple[str, mx.array]] = {}

    def __call__(self, path: str, apply: _Apply, x: mx.array) -> mx.array:
        """Note the input of a module."""
        if x.dtype not in _INTEGERS:
            # The array is kept as long as its number stands for it.
            self._key_of[path] = self._seen.setdefault(id(x), (path, x))[0]
        return apply(x)

    def run(self, model: nn.Module, sequence: NDArray[np.int32]) -> None:
        """Run one sequence."""
        self._seen.clear()
        cast(Any, model)(mx.array(sequence)[None])
        for key, x in self._seen.values():
            flat = mx.flatten(x, 0, -2).astype(mx.float32)
            product = flat.T @ flat
            self._sums[key] = self._sums[key] + product if key in self._sums else product
            self._counts[key] = self._counts.get(key, 0) + flat.shape[0]
        self._seen.clear()
        _evaluate(self._sums)

    def mean(self, path: str) -> Floats | None:
        """Mean of `x x^T`, `[in, in]`; None where no input was seen."""
        key = self._key_of.get(path)
        if key is None:
            return None
        if key not in self._means:
            self._means[key] = _mean(self._sums[key], self._counts[key])
        return self._means[key]


class _Gradients:
    """Sums of squared gradients with respect to every module's outputs."""

    def __init__(self) -> None:
        self._sums: dict[str, mx.array] = {}
        self._squares: dict[str, mx.array] = {}
        self._lookups: dict[str, mx.array] = {}
        self._offset: mx.array | None = None
        self._width = 0
        self._tokens = 0

    def __call__(self, path: str, apply: _Apply, x: mx.array) -> mx.array:
        """Watch what comes back to a module's output."""
        y = apply(x)
        if x.dtype not in _INTEGERS:
            return _watched(y, path, self._squares)
        self._width = y.shape[-1]
        # The gradient is taken with respect to what is added here, so that it goes all the way.
        return _watched(y if self._offset is None else y + self._offset, path, self._lookups)

    def run(self, model: nn.Module, sequence: NDArray[np.int32], seed: int) -> None:
        """Run one sequence forwards and backwards, with labels that the model samples."""
        call = cast(Callable[[mx.array], mx.array], model)
        tokens = mx.array(sequence)[None]
        self._offset = None
        labels = mx.random.categorical(call(tokens), key=mx.random.key(seed))
        _evaluate(labels)

        def loss(offset: mx.array) -> mx.array:
            self._offset = offset
            return nn.losses.cross_entropy(call(tokens), labels, reduction="sum")

        backwards = cast(Callable[[mx.array], mx.array], mx.grad(loss))
        gradient = backwards(mx.zeros((*tokens.shape, self._width)))
        for path, square in (self._squares | self._prefixed()).items():
            self._sums[path] = self._sums[path] + square if path in self._sums else square
        self._squares.clear()
        self._lookups.clear()
        self._tokens += tokens.size
        _evaluate(gradient, self._sums)

    def mean(self, path: str) -> Floats | None:
        """Mean square of the gradient, `[out]`; None where none came back."""
        found = self._sums.get(path)
        return None if found is None else _mean(found, self._tokens)

    def mean_lookup(self, path: str) -> Floats | None:
        """The same for what an embedding gave, `[in]`."""
        return self.mean(_LOOKUP + path)

    def _prefixed(self) -> dict[str, mx.array]:
        return {_LOOKUP + path: square for path, square in self._lookups.items()}


_LOOKUP: Final = "lookup of "
# Open in mlx's stubs.
_evaluate = cast(Callable[..., None], getattr(mx, "eval"))  # noqa: B009


def _mean(total: mx.array, count: int) -> Floats:
    return np.array(total, dtype=np.float32) / np.float32(count)


def _watched(y: mx.array, path: str, squares: dict[str, mx.array]) -> mx.array:
    """The same array; on the way back the squares of its gradient are noted."""
    same = cast(Any, mx.custom_function(lambda value: value))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]

    def back(primals: Any, cotangent: mx.array, output: Any) -> mx.array:
        squares[path] = mx.square(cotangent).sum(axis=tuple(range(cotangent.ndim - 1)))
        return cotangent

    same.vjp(back)
    return cast(mx.array, same(y))
