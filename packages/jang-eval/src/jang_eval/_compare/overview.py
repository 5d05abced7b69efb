"""Results of any tasks, brought together by model and by task."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from jang_eval._errors import ComparisonError
from jang_eval._evaluation import EvaluationResult, Metric
from jang_eval._results import ModelInfo
from jang_eval._statistics import sign_test

Named = tuple[Path, EvaluationResult]


@dataclass(frozen=True)
class Model:
    """One row: a model, named so that no other row has the same name."""

    label: str
    info: ModelInfo


@dataclass(frozen=True)
class Run:
    """What one model came to in one task."""

    model: Model
    file: str
    result: EvaluationResult


@dataclass(frozen=True)
class Column:
    """One metric of a task.

    Attributes:
        name: The metric's.
        unit: Such as "nats"; "%" where the values are shares, which are shown times 100.
        better: "higher", "lower" or "".
        whole: The metric that this is a part of, as "accuracy" of "accuracy/astronomy"; empty if
            this is none.
        cells: The value of each run of the task; None where a result has none.
    """

    name: str
    unit: str
    better: str
    whole: str
    cells: tuple[Metric | None, ...]


@dataclass(frozen=True)
class PairedTest:
    """Two models that answered the same questions.

    Attributes:
        first: Label of a model.
        second: Label of another.
        only_first: Questions that the first did better.
        only_second: Questions that the second did better.
        questions: All questions.
        p: Of McNemar's exact test.
        p_adjusted: `p` for as many tests as this task has (Holm 1979, jstor:4615733).
    """

    first: str
    second: str
    only_first: int
    only_second: int
    questions: int
    p: float
    p_adjusted: float


@dataclass(frozen=True)
class TaskTable:
    """All runs of one task, under the same rules with the same data."""

    task: str
    task_version: int
    data_sha256: str
    settings: dict[str, str]
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    pairs: tuple[PairedTest, ...]

    @property
    def headlines(self) -> tuple[Column, ...]:
        """The columns that are no parts of others."""
        return tuple(column for column in self.columns if not column.whole)


@dataclass(frozen=True)
class Overview:
    """Everything that was found about some models."""

    models: tuple[Model, ...]
    tasks: tuple[TaskTable, ...]


def bring_together(results: Sequence[Named]) -> Overview:
    """Sorts results by model and by task, both in the order in which they first come.

    Args:
        results: At least one result, each with the file that it came from.

    Raises:
        ComparisonError: Two results of one task differ in task version, data, settings or in the
            questions answered.
    """
    by_task: dict[str, list[Named]] = {}
    for each in results:
        by_task.setdefault(each[1].task, []).append(each)
    for group in by_task.values():
        for other in group[1:]:
            _check_comparable(group[0], other)
    keys = _model_keys(results)
    firsts: dict[object, Named] = {}
    for key, each in zip(keys, results, strict=True):
        firsts.setdefault(key, each)
    labels = _labels(list(firsts.values()))
    models = {
        key: Model(label, result.model)
        for (key, (_, result)), label in zip(firsts.items(), labels, strict=True)
    }
    runs: dict[str, list[Run]] = {}
    for key, (path, result) in zip(keys, results, strict=True):
        runs.setdefault(result.task, []).append(Run(models[key], str(path), result))
    return Overview(tuple(models.values()), tuple(_table(each) for each in runs.values()))


def overview_document(overview: Overview) -> dict[str, Any]:
    """What `--json` prints: everything but the single outcomes."""
    return {
        "models": [{"label": model.label, **asdict(model.info)} for model in overview.models],
        "tasks": [_task_document(table) for table in overview.tasks],
    }


def _task_document(table: TaskTable) -> dict[str, Any]:
    return {
        "task": table.task,
        "task_version": table.task_version,
        "data_sha256": table.data_sha256,
        "settings": table.settings,
        "results": [
            {
                "model": run.model.label,
                "file": run.file,
                "target": run.result.target,
                "jang_eval_version": run.result.jang_eval_version,
                "seconds": run.result.seconds,
                "metrics": [asdict(metric) for metric in run.result.metrics],
            }
            for run in table.runs
        ],
        "paired_tests": [asdict(pair) for pair in table.pairs],
    }


def _check_comparable(first: Named, other: Named) -> None:
    (first_path, expected), (path, found) = first, other
    comparisons: list[tuple[str, object, object]] = [
        ("task_version", found.task_version, expected.task_version),
        ("data_sha256", found.data_sha256, expected.data_sha256),
        *(
            (f"settings.{name}", found.settings.get(name), expected.settings.get(name))
            for name in sorted({*found.settings, *expected.settings})
        ),
        ("outcomes", len(found.outcomes), len(expected.outcomes)),
    ]
    # A digest that fits does not help where a file was edited by hand.
    for index, (mine, theirs) in enumerate(zip(found.outcomes, expected.outcomes, strict=False)):
        comparisons.append((f"outcomes[{index}].id", mine.id, theirs.id))
    for field, here, there in comparisons:
        if here != there:
            raise ComparisonError(
                f"{path}: {field}: found {_shown(here)}, "
                f"expected {_shown(there)} as in {first_path}"
            )


def _shown(value: object) -> str:
    # One line, whatever a file holds.
    return "none" if value is None else ascii(value).strip("'\"")


def _model_keys(results: Sequence[Named]) -> list[object]:
    """Tells models apart; the same model a second time in one task is another row."""
    seen: Counter[object] = Counter()
    keys: list[object] = []
    for _, result in results:
        model = result.model
        key = model.digest or (model.name, model.profile, model.bits_per_weight, model.weight_bytes)
        keys.append((key, seen[result.task, key]))
        seen[result.task, key] += 1
    return keys


def _labels(models: Sequence[Named]) -> list[str]:
    """Names the rows: each by as little as tells it from the others."""
    said: tuple[Callable[[Path, ModelInfo], str], ...] = (
        lambda path, model: model.profile or model.name,
        lambda path, model: model.name,
        lambda path, model: f"{model.bits_per_weight:.2f} bpw",
        lambda path, model: str(path),
    )
    labels = [said[0](path, result.model) for path, result in models]
    for more in said[1:]:
        counts = Counter(labels)
        labels = [
            label if counts[label] == 1 else f"{label}, {more(path, result.model)}"
            for label, (path, result) in zip(labels, models, strict=True)
        ]
    return labels


def _table(runs: Sequence[Run]) -> TaskTable:
    first = runs[0].result
    return TaskTable(
        task=first.task,
        task_version=first.task_version,
        data_sha256=first.data_sha256,
        settings=first.settings,
        runs=tuple(runs),
        columns=_columns(runs),
        pairs=_paired_tests(runs),
    )


def _columns(runs: Sequence[Run]) -> tuple[Column, ...]:
    by_run = [{metric.name: metric for metric in run.result.metrics} for run in runs]
    names = list(dict.fromkeys(name for metrics in by_run for name in metrics))
    columns: list[Column] = []
    for name in names:
        cells = tuple(metrics.get(name) for metrics in by_run)
        found = [cell for cell in cells if cell is not None]
        is_share = not found[0].unit and all(0 <= cell.value <= 1 for cell in found)
        unit = "%" if is_share else found[0].unit
        columns.append(Column(name, unit, found[0].better, _whole(name, names), cells))
    return tuple(columns)


def _whole(name: str, names: Sequence[str]) -> str:
    parts = name.split("/")
    wholes = ("/".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((whole for whole in wholes if whole in names), "")


def _paired_tests(runs: Sequence[Run]) -> tuple[PairedTest, ...]:
    found: list[tuple[str, str, int, int, int, float]] = []
    for one, other in combinations(runs, 2):
        pairs = [
            (mine.numbers["correct"], theirs.numbers["correct"])
            for mine, theirs in zip(one.result.outcomes, other.result.outcomes, strict=True)
            if "correct" in mine.numbers and "correct" in theirs.numbers
        ]
        if pairs:
            only_first = sum(mine > theirs for mine, theirs in pairs)
            only_second = sum(mine < theirs for mine, theirs in pairs)
            p = sign_test(only_first, only_second)
            found.append(
                (one.model.label, other.model.label, only_first, only_second, len(pairs), p)
            )
    adjusted = holm([each[-1] for each in found])
    return tuple(PairedTest(*each, p) for each, p in zip(found, adjusted, strict=True))


def holm(values: Sequence[float]) -> list[float]:
    """Makes p-values of several tests hold for all of them together (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
