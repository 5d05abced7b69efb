"""The page of predicted and measured divergence."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from textwrap import fill
from typing import Final

from correlation import agreement
from predicted_plot import Series
from predictions import SINGLE_WIDTHS, Trial
from records import Conditions

_HEADING: Final = """# Predicted divergence against measured divergence

`jang-quant plan` and `convert` with calibration print an estimate of the divergence that a plan
brings (`damage` in their JSON), and choose plans by it. Here it is held against the divergence that
plans have when they are measured: plans for budgets of 2.6 to 7 bits a weight, the same bits
everywhere, and single modules quantized while the rest of the model stays as it is. The estimate is
made with searched grids (`mse`) and is one number for a plan; gptq makes up for part of the error
and comes out below `mse`. SmolLM2-135M-Instruct, groups of 64; reference and text are those of
[divergence-smollm2.md](divergence-smollm2.md). Written by

    uv run python benchmarks/quality/predicted_divergence.py wiki.test.raw CALIBRATION --work DIR

"""
_READING: Final = """
Correlations are of logarithms (Pearson) and of ranks (Spearman); the ratio is the median of
measured over predicted.

"""
_PLANS: Final = ("plan", "method", "bpw", "predicted", "measured", "measured / predicted")


@dataclass(frozen=True)
class Point:
    """A trial and the divergence that was measured."""

    trial: Trial
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.trial.damage


def page(conditions: Conditions, calibration: str, points: Sequence[Point], picture: str) -> str:
    """The whole page."""
    sentences = fill(f"{conditions.sentence()} {calibration}", 100, break_long_words=False)
    return "".join(
        [
            _HEADING,
            f"{sentences}\n\n![Predicted and measured divergence]({picture})\n\n",
            _table(("points", "count", "Pearson", "Spearman", "ratio"), _agreements(points)),
            _READING,
            "## Plans\n\n",
            _table(_PLANS, _plans(points)),
            "\n## Single modules\n\nMedian of measured over predicted, by module and bits.\n\n",
            _table(("module", "count", *_single_columns()), _singles(points)),
        ]
    )


def series(points: Iterable[Point]) -> list[Series]:
    """What is drawn: points by what they are examples of."""
    return [
        Series(
            family,
            [point.trial.damage for point in members],
            [point.measured for point in members],
        )
        for family, members in _families(points).items()
    ]


def _families(points: Iterable[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.trial.family, []).append(point)
    return found


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _agreements(points: Sequence[Point]) -> Iterator[list[str]]:
    for one in [*series(points), *series_of_all(points)]:
        found = agreement(one.predicted, one.measured)
        yield [
            one.label,
            str(found.count),
            f"{found.pearson:.3f}",
            f"{found.spearman:.3f}",
            f"{found.ratio:.2f}",
        ]


def series_of_all(points: Sequence[Point]) -> list[Series]:
    """All plans together, and everything."""
    plans = [point for point in points if point.trial.bits_per_weight is not None]
    return [
        Series(label, [point.trial.damage for point in some], [point.measured for point in some])
        for label, some in (("all whole models", plans), ("everything", points))
    ]


def _plans(points: Iterable[Point]) -> Iterator[list[str]]:
    for point in points:
        trial = point.trial
        if trial.bits_per_weight is not None:
            yield [
                trial.label,
                trial.method,
                f"{trial.bits_per_weight:.3f}",
                f"{trial.damage:.4g}",
                f"{point.measured:.4g}",
                f"{point.ratio:.2f}",
            ]


def _single_columns() -> list[str]:
    return [f"{bits} bits" for bits in SINGLE_WIDTHS]


def _singles(points: Iterable[Point]) -> Iterator[list[str]]:
    ratios: dict[str, dict[int, list[float]]] = {}
    for point in points:
        if point.trial.bits_per_weight is None:
            ((path, bits),) = point.trial.widths.items()
            by_width = ratios.setdefault(path.rpartition(".")[2], {})
            by_width.setdefault(bits, []).append(point.ratio)
    for name, by_width in sorted(ratios.items()):
        counts = [len(found) for found in by_width.values()]
        medians = [f"{median(by_width[bits]):.2f}" for bits in SINGLE_WIDTHS]
        yield [name, str(max(counts)), *medians]
