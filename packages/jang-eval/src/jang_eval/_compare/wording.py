"""Numbers as people read them, the same in Markdown and on the page."""

from typing import Final

from jang_eval._compare.overview import Column, TaskTable
from jang_eval._compare.paired import PairedTest
from jang_eval._evaluation import Metric
from jang_eval._results import ModelInfo

NOTES: Final = (
    "Values with 95 % intervals; what has none is no estimate. ↑: higher is better, ↓: lower is."
)
PAIRED_NOTES: Final = (
    "Two models, the same questions: how many only one of them did better, how likely that is "
    "where both are equally good (McNemar's exact test), and the same after Holm for all rows of "
    "this table."
)
PAIRED_HEADINGS: Final = (
    "first",
    "second",
    "only first",
    "only second",
    "questions",
    "p",
    "p (Holm)",
)

_ARROWS: Final = {"higher": " ↑", "lower": " ↓"}


def number(column: Column, value: float) -> str:
    """A value of a column, without its unit."""
    return f"{100 * value:.1f}" if column.unit == "%" else significant(value)


def significant(value: float) -> str:
    """Four digits that count."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def cell(column: Column, metric: Metric | None) -> str:
    """A value with its interval, without its unit."""
    if metric is None:
        return "-"
    shown = number(column, metric.value)
    interval = metric.interval
    if interval is None:
        return shown
    return f"{shown} ({number(column, interval.low)} to {number(column, interval.high)})"


def heading(column: Column) -> str:
    """A column's name, unit, and which way is better."""
    unit = f" ({column.unit})" if column.unit else ""
    return f"{column.name}{unit}{_ARROWS.get(column.better, '')}"


def bits_per_weight(model: ModelInfo) -> str:
    """A model's bits per weight; a server that does not know sends proto3's zero."""
    return f"{model.bits_per_weight:.2f}" if model.bits_per_weight > 0 else "unknown"


def weight_bytes(model: ModelInfo) -> str:
    """A model's bytes in millions; a server that does not know sends proto3's zero."""
    return megabytes(model.weight_bytes) if model.weight_bytes > 0 else "unknown"


def megabytes(count: float) -> str:
    """Bytes in millions."""
    return f"{count / 1e6:,.1f} MB"


def rules(table: TaskTable) -> tuple[str, ...]:
    """What was asked, and under which rules."""
    return (
        f"Task {table.task}, version {table.task_version}",
        f"data sha256 {table.data_sha256}",
        *(f"{name}: {value}" for name, value in table.settings.items()),
    )


def paired_test(pair: PairedTest) -> list[str]:
    """A test as cells below `PAIRED_HEADINGS`."""
    counts = (pair.only_first, pair.only_second, pair.questions)
    return [
        pair.first,
        pair.second,
        *(str(count) for count in counts),
        *("< 0.0001" if p < 1e-4 else f"{p:.4f}" for p in (pair.p, pair.p_adjusted)),
    ]
