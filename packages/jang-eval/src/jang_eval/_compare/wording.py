"""Numbers as people read them, the same in Markdown and on the page."""

from dataclasses import dataclass
from typing import Final

from jang_eval._compare.flips import Flips, Share
from jang_eval._compare.means import MeanTest
from jang_eval._compare.overview import Column, Model, TaskTable
from jang_eval._compare.paired import PairedTest
from jang_eval._evaluation import Metric
from jang_eval._model_info import ModelInfo

MODEL_HEADINGS: Final = ("model", "bpw", "MB")
NOTES: Final = (
    "Values with 95 % intervals; what has none is no estimate. ↑: higher is better, ↓: lower is."
)
_PAIRED_NOTES: Final = (
    "Two models, the same questions: how many only one of them did better, how likely that is "
    "where both are equally good (McNemar's exact test), and the same after Holm for all rows of "
    "this table."
)
_PAIRED_HEADINGS: Final = (
    "first",
    "second",
    "only first",
    "only second",
    "questions",
    "p",
    "p (Holm)",
)

_MEAN_NOTES: Final = (
    "Two models, the same texts: the first's mean less the second's, how likely such a difference "
    "is where either could as well have been the other (a sign-flip test of the differences by "
    "block; n blocks give no p below 2 / 2^n, nor below 0.0001), and the same after Holm for all "
    "rows of this table."
)
_MEAN_HEADINGS: Final = ("first", "second", "mean", "difference", "blocks", "p", "p (Holm)")
_FLIPS_NOTES: Final = (
    "Answers beside the reference's to the same questions, in % of them: changed (another choice; "
    "where answers are no choices, another judgement), right before and wrong now, wrong before "
    "and right now. Accuracy shows only the difference of the last two."
)
_FLIPS_HEADINGS: Final = (
    "reference",
    "model",
    "questions",
    "changed (%)",
    "right to wrong (%)",
    "wrong to right (%)",
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
    return f"{column.name}{unit_and_arrow(column)}"


def unit_and_arrow(column: Column) -> str:
    """A column's unit, where its name does not say it already, and which way is better."""
    said = {*column.name.split(), "per"} >= {*column.unit.split()}
    unit = "" if said else f" ({column.unit})"
    return f"{unit}{_ARROWS.get(column.better, '')}"


def bits_per_weight(model: ModelInfo) -> str:
    """A model's bits per weight; a server that does not know sends proto3's zero."""
    return f"{model.bits_per_weight:.2f}" if model.bits_per_weight > 0 else "unknown"


def weight_bytes(model: ModelInfo) -> str:
    """A model's bytes in millions; a server that does not know sends proto3's zero."""
    return megabytes(model.weight_bytes) if model.weight_bytes > 0 else "unknown"


def megabytes(count: float) -> str:
    """Bytes in millions, without the unit."""
    return f"{count / 1e6:,.1f}"


def metric_rows(table: TaskTable) -> list[list[str]]:
    """A row for each model: what `MODEL_HEADINGS` names, then its headline metrics."""
    return [
        [*model_cells(run.model), *(cell(each, each.cells[place]) for each in table.headlines)]
        for place, run in enumerate(table.runs)
    ]


def metric_headings(table: TaskTable) -> list[str]:
    """The headings of `metric_rows`."""
    return [*MODEL_HEADINGS, *map(heading, table.headlines)]


def model_cells(model: Model) -> list[str]:
    """What `MODEL_HEADINGS` names of a model."""
    return [model.label, bits_per_weight(model.info), weight_bytes(model.info)]


def rules(table: TaskTable) -> tuple[str, ...]:
    """What was asked, and under which rules."""
    sources = dict.fromkeys(run.result.data_source for run in table.runs)
    return (
        f"Task {table.task}, version {table.task_version}",
        f"data sha256 {table.data_sha256}",
        *(f"data from {source}" for source in sources if source),
        *(f"{name}: {value}" for name, value in table.settings.items()),
    )


@dataclass(frozen=True)
class Comparison:
    """Models beside each other, as a table with a name and what it means."""

    name: str
    notes: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def comparisons(table: TaskTable) -> list[Comparison]:
    """Flips and tests of a task; only what there is any of."""
    flips = tuple(map(_answer_flips, table.flips))
    pairs = tuple(map(_paired_test, table.pairs))
    means = tuple(map(_mean_test, table.means))
    found = (
        Comparison("Answer flips", _FLIPS_NOTES, _FLIPS_HEADINGS, flips),
        Comparison("Paired tests", _PAIRED_NOTES, _PAIRED_HEADINGS, pairs),
        Comparison("Paired tests of means", _MEAN_NOTES, _MEAN_HEADINGS, means),
    )
    return [each for each in found if each.rows]


def _paired_test(pair: PairedTest) -> tuple[str, ...]:
    counts = (pair.only_first, pair.only_second, pair.questions)
    return (
        pair.first,
        pair.second,
        *(str(count) for count in counts),
        *(_probability(p) for p in (pair.p, pair.p_adjusted)),
    )


def _mean_test(test: MeanTest) -> tuple[str, ...]:
    low, high = significant(test.interval.low), significant(test.interval.high)
    return (
        test.first,
        test.second,
        f"{test.metric} ({test.unit})",
        f"{significant(test.difference)} ({low} to {high})",
        str(test.blocks),
        *(_probability(p) for p in (test.p, test.p_adjusted)),
    )


def _answer_flips(found: Flips) -> tuple[str, ...]:
    shares = (found.changed, found.right_to_wrong, found.wrong_to_right)
    return (found.reference, found.model, str(found.questions), *map(_share, shares))


def _share(share: Share) -> str:
    shown = [100 * each for each in (share.value, share.interval.low, share.interval.high)]
    return "{:.1f} ({:.1f} to {:.1f})".format(*shown)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
