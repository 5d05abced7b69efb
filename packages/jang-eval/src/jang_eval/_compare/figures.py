"""The page's charts, each made from an overview, each with its numbers as a table below."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from jang_eval._compare import wording
from jang_eval._compare.axes import Axis, linear_axis, logarithmic_axis
from jang_eval._compare.charts import Bar, Point, bars, histogram, scatter
from jang_eval._compare.markup import figure, html_table, statement
from jang_eval._compare.overview import Column, Run, TaskTable
from jang_eval._evaluation import Metric
from jang_eval._model_info import ModelInfo
from jang_eval._statistics import Doubles

_BINS_PER_DECADE: Final = 4
# Below this, differences of float32 logits are mostly rounding.
_LEAST_DIVERGENCE: Final = 1e-8
_SPREAD_MAX: Final = 3.0


@dataclass(frozen=True)
class _Size:
    name: str
    title: str
    unit: str
    of: Callable[[ModelInfo], float]


_SIZES: Final = (
    _Size("bytes", "weights, MB", "MB", lambda model: model.weight_bytes / 1e6),
    _Size("bits per weight", "bits per weight", "bpw", lambda model: model.bits_per_weight),
)


def quality_figures(table: TaskTable, column: Column) -> list[str]:
    """A metric against bytes and bits per weight."""
    figures = [_quality(table, column, size) for size in _SIZES]
    return [each for each in figures if each]


def model_figures(table: TaskTable) -> list[str]:
    """Each metric that has a better side as bars: a bar for each model."""
    return [_by_model(table, column) for column in table.headlines if column.better]


def pareto_front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[bool]:
    """Which points no other beats: none is as small and better, or as good and smaller.

    Args:
        points: Size and quality of each model.
        higher: Whether a higher quality is better.
    """
    sign = 1 if higher else -1
    found = [(size, sign * quality) for size, quality in points]
    return [
        not any(
            other_size <= size and other >= quality and (other_size, other) != (size, quality)
            for other_size, other in found
        )
        for size, quality in found
    ]


def divergence_figures(table: TaskTable) -> list[str]:
    """How the divergences of single tokens are spread, for each model on the same axes."""
    found = [(run, _divergences(run)) for run in table.runs]
    found = [(run, values) for run, values in found if len(values)]
    if not found:
        return []
    everything = np.concatenate([values for _, values in found])
    high = math.ceil(math.log10(max(float(everything.max()), 10 * _LEAST_DIVERGENCE)) + 1e-9)
    positive = everything[everything > _LEAST_DIVERGENCE]
    least = float(np.percentile(positive, 0.5)) if len(positive) else _LEAST_DIVERGENCE
    low = min(high - 1, math.floor(math.log10(least)))
    count = (high - low) * _BINS_PER_DECADE
    edges = [10 ** (low + index / _BINS_PER_DECADE) for index in range(count + 1)]
    spread = [(run, values) for run, values in found if values.max() > edges[0]]
    shares = [_shares(values, edges) for _, values in spread]
    x = logarithmic_axis("KL divergence of a token, nats", [edges[0], edges[-1]])
    y = linear_axis("tokens, %", [0.0, max((max(each) for each in shares), default=1.0)], scale=100)
    figures = [
        _histogram(run, values, edges, share, x, y)
        for (run, values), share in zip(spread, shares, strict=True)
    ]
    return figures + [
        statement(run.model.label, f"{_most(values)} at each of {len(values):,} tokens.")
        for run, values in found
        if values.max() <= edges[0]
    ]


def part_figures(table: TaskTable) -> list[str]:
    """Bars for the parts of a metric, such as subjects: a chart for each model, on one axis."""
    figures: list[str] = []
    for whole in dict.fromkeys(column.whole for column in table.columns if column.whole):
        columns = [column for column in table.columns if column.whole == whole]
        present = [metric for column in columns for metric in column.cells if metric is not None]
        ends = [0.0, *(end for metric in present for end in _ends(metric))]
        is_share = all(column.unit == "%" for column in columns)
        unit = "%" if is_share else columns[0].unit
        x = linear_axis(f"{whole}, {unit}" if unit else whole, ends, scale=100 if is_share else 1)
        figures += [_parts(run, index, columns, x) for index, run in enumerate(table.runs)]
    return figures


def _quality(
    table: TaskTable,
    column: Column,
    size: _Size,
) -> str:
    cells = [
        (run, metric, size.of(run.model.info))
        for run, metric in zip(table.runs, column.cells, strict=True)
        # A server that does not know its model's size sends proto3's zero.
        if metric is not None and size.of(run.model.info) > 0
    ]
    name = f"{table.task}: {column.name} against {size.name}"
    if not cells:
        return ""
    front = pareto_front(
        [(at, metric.value) for _, metric, at in cells], higher=column.better == "higher"
    )
    points = [
        Point(
            x=at,
            y=metric.value,
            low=_ends(metric)[0],
            high=_ends(metric)[1],
            label=run.model.label,
            details=f"{run.model.label}: {wording.cell(column, metric)} at {at:.4g} {size.unit}",
            on_front=best,
            is_reference=run.model.is_reference,
        )
        for (run, metric, at), best in zip(cells, front, strict=True)
    ]
    title = wording.heading(column)
    ends = [end for _, metric, _ in cells for end in _ends(metric)]
    y = _is_logarithmic(column) and logarithmic_axis(f"{title}, logarithmic", ends)
    picture = scatter(
        name,
        points,
        _size_axis(size.title, [point.x for point in points]),
        y or linear_axis(title, ends, scale=100 if column.unit == "%" else 1),
    )
    rows = [
        [run.model.label, f"{at:,.2f}", wording.cell(column, metric), "yes" if best else "no"]
        for (run, metric, at), best in zip(cells, front, strict=True)
    ]
    return figure(name, picture, html_table(["model", size.title, title, "on the front"], rows))


def _by_model(table: TaskTable, column: Column) -> str:
    found = [
        (run.model.label, metric)
        for run, metric in zip(table.runs, column.cells, strict=True)
        if metric is not None
    ]
    title = wording.heading(column)
    ends = [0.0, *(end for _, metric in found for end in _ends(metric))]
    rows = [
        Bar(
            label=label,
            value=metric.value,
            low=_ends(metric)[0],
            high=_ends(metric)[1],
            mark=None,
            details=f"{label}: {wording.cell(column, metric)}",
        )
        for label, metric in found
    ]
    picture = bars(title, rows, linear_axis(title, ends, scale=100 if column.unit == "%" else 1))
    cells = [[label, wording.cell(column, metric)] for label, metric in found]
    return figure(f"{table.task}: {column.name}", picture, html_table(["model", title], cells))


def _size_axis(title: str, sizes: Sequence[float]) -> Axis:
    # A reference in full precision would push all others into a corner.
    if max(sizes) / min(sizes) > _SPREAD_MAX:
        return logarithmic_axis(f"{title}, logarithmic", sizes)
    return linear_axis(title, sizes)


def _is_logarithmic(column: Column) -> bool:
    return column.unit == "nats" or "perplexity" in column.name


def _ends(metric: Metric) -> tuple[float, float]:
    interval = metric.interval
    return (interval.low, interval.high) if interval else (metric.value, metric.value)


def _divergences(run: Run) -> Doubles:
    values = [outcome.arrays.get("divergence", ()) for outcome in run.result.outcomes]
    return np.array([value for each in values for value in each], dtype=np.float64)


def _most(values: Doubles) -> str:
    most = float(values.max())
    return f"At most {wording.significant(most)} nats" if most > 0 else "0"


def _shares(values: Doubles, edges: Sequence[float]) -> list[float]:
    # What is outside counts into the outermost columns.
    inside = np.clip(values, edges[0], edges[-1])
    counts, _ = np.histogram(inside, bins=np.array(edges))
    return [float(count) / len(values) for count in counts]


def _histogram(
    run: Run, values: Doubles, edges: Sequence[float], shares: Sequence[float], x: Axis, y: Axis
) -> str:
    # As the task kl finds them, or the page would have two medians.
    quantiles = [
        (float(np.percentile(values, share, method="inverted_cdf")), label)
        for share, label in ((50.0, "median"), (99.0, "99 %"))
    ]
    marks = [(value, f"{label} {wording.significant(value)}") for value, label in quantiles]
    name = f"{run.model.label}: {len(values):,} tokens"
    rows = [
        [f"{start:.3g} to {end:.3g}", f"{100 * share:.2f} %"]
        for start, end, share in zip(edges[:-1], edges[1:], shares, strict=True)
    ]
    rows += [[label, f"{wording.significant(value)} nats"] for value, label in quantiles]
    picture = histogram(name, edges, shares, marks, x, y)
    return figure(name, picture, html_table(["nats", "tokens"], rows))


def _parts(run: Run, index: int, columns: Sequence[Column], x: Axis) -> str:
    rows: list[Bar] = []
    for column in columns:
        metric = column.cells[index]
        if metric is None:
            continue
        others = [cell.value for cell in column.cells if cell is not None]
        low, high = _ends(metric)
        label = column.name.removeprefix(f"{column.whole}/")
        rows.append(
            Bar(
                label=label.replace("_", " "),
                value=metric.value,
                low=low,
                high=high,
                mark=math.fsum(others) / len(others) if len(others) > 1 else None,
                details=f"{label}: {wording.cell(column, metric)}, of {metric.count}",
            )
        )
    title = f"{columns[0].whole}{wording.unit_and_arrow(columns[0])}"
    cells = [
        [
            column.name.removeprefix(f"{column.whole}/"),
            wording.cell(column, metric),
            str(metric.count),
        ]
        for column in columns
        if (metric := column.cells[index]) is not None
    ]
    table = html_table(["part", title, "of"], cells)
    return figure(f"{run.model.label}: {columns[0].whole}", bars(run.model.label, rows, x), table)
