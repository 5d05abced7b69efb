"""Results as tables for the terminal."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from jang_eval._evaluation import EvaluationResult, Outcome
from jang_eval._model_info import describe_model
from jang_eval._text import shorten

_STYLES: Final = {"correct": "green", "partial": "yellow", "broken": "red"}


def metrics_table(result: EvaluationResult) -> Table:
    """The metrics of one run; shares in percent."""
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    table = Table(
        title=Text(f"{result.task}, {describe_model(result.model)}"),
        caption=Text(f"{settings}; {result.seconds:.1f} s" if settings else ""),
    )
    table.add_column("metric")
    for heading in ("value", "95 %", "of"):
        table.add_column(heading, justify="right")
    for metric in result.metrics:
        interval = metric.interval
        sides = (interval.low, interval.high) if interval is not None else ()
        table.add_row(
            Text(metric.name),
            _quantity(metric.value, metric.unit),
            " to ".join(_quantity(side, metric.unit) for side in sides),
            f"{metric.count:,}",
        )
    return table


def answers_table(outcomes: Sequence[Outcome]) -> Table:
    """Every answer of a run of `qa`, with its verdict."""
    names = ("question", "answer", "verdict", "failure mode")
    table = Table(*names, show_lines=True)
    for outcome in outcomes:
        # As Text, or a "[bold]" of the model's would be taken for ours.
        texts = [Text(shorten(outcome.texts.get(name, ""))) for name in names]
        texts[2].stylize(_STYLES.get(texts[2].plain, ""))
        table.add_row(*texts)
    return table


def _quantity(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}" if unit else f"{100 * value:.1f} %"
