"""Which step of a report is under way, and how long the rest takes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

Step = tuple[str, str]


@dataclass
class Steps:
    """The steps of a report, each a model and what is done with it.

    Attributes:
        left: Those that are not over yet, in their order.
    """

    left: list[Step]
    total: int = field(init=False)
    _seconds: dict[str, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.left)
        self._seconds = defaultdict(list)

    def end(self, step: Step, seconds: float | None) -> None:
        """A step is over; `seconds` if it tells how long such steps take."""
        self.left.remove(step)
        if seconds is not None:
            self._seconds[step[1]].append(seconds)

    def describe(self, step: Step) -> str:
        """One line about the step that begins."""
        model, name = step
        place = self.total - len(self.left) + 1
        return f"[{place} of {self.total}] {model}: {name}{self._time_left()}"

    def _time_left(self) -> str:
        """As long as such steps took before; a kind that never was, as long as the mean one."""
        means = {name: _mean(seconds) for name, seconds in self._seconds.items()}
        if not means:
            return ""
        usual = _mean([*means.values()])
        seconds = sum(means.get(name, usual) for _, name in self.left)
        return f"; about {_duration(seconds)} left"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
