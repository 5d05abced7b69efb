"""Axes of charts: where a value stands, and which values are named."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_TICKS_MAX: Final = 6
# Of the axis, for the zero below a logarithmic scale.
_ZERO_ROOM: Final = 0.1


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: What it shows, with the unit.
        place: Where a value stands, from 0 to 1.
        ticks: Values to name, and their names.
    """

    title: str
    place: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]


def linear_axis(title: str, values: Sequence[float], *, scale: float = 1.0) -> Axis:
    """An axis for values from their lowest to their highest, at round numbers.

    Args:
        title: What it shows.
        values: What has to have a place on it; at least one.
        scale: What values are multiplied by before they are named, such as 100 for percent.
    """
    low, high = min(values) * scale, max(values) * scale
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / (_TICKS_MAX - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple(
        (index * step / scale, f"{index * step:.{digits}f}") for index in range(first, last + 1)
    )
    return Axis(title, lambda value: _within((value * scale - low) / (high - low)), ticks)


def logarithmic_axis(title: str, values: Sequence[float]) -> Axis:
    """An axis on which equal factors have equal lengths; zero, if there, stands below all others.

    Args:
        title: What it shows.
        values: What has to have a place on it; at least one.
    """
    positive = [value for value in values if value > 0] or [1.0]
    steps = _one_two_five(min(positive), max(positive))
    low, high = math.log10(steps[0]), math.log10(steps[-1])
    room = _ZERO_ROOM if min(values) <= 0 else 0.0

    def place(value: float) -> float:
        if value <= 0:
            return 0.0
        return room + (1 - room) * _within((math.log10(value) - low) / (high - low))

    if len(steps) < 3:
        power = math.floor(low + 1e-9)
        every = [float(f"{digit}e{power}") for digit in range(1, 11)]
        steps = [step for step in every if steps[0] <= step <= steps[-1]]
    if len(steps) > _TICKS_MAX:
        decades = [step for step in steps if f"{step:e}".startswith("1.0")]
        steps = decades[:: math.ceil(len(decades) / _TICKS_MAX)]
    zero = [(0.0, "0")] if room else []
    return Axis(title, place, (*zero, *((step, f"{step:g}") for step in steps)))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _one_two_five(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... from the last at or below `low` to the first at or above `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    steps = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    start = max(index for index, step in enumerate(steps) if step <= low * (1 + 1e-9))
    end = min(index for index, step in enumerate(steps) if step >= high * (1 - 1e-9))
    # A single value wants some room on both sides.
    return steps[start : end + 1] if end > start else steps[max(0, start - 1) : end + 2]


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))
