"""Results of any tasks, brought together by model and by task."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jang_eval._compare.answers import AnsweredQuestion, side_by_side
from jang_eval._compare.flips import Flips, flips
from jang_eval._compare.means import MeanTest, mean_tests
from jang_eval._compare.paired import PairedTest, paired_tests
from jang_eval._compare.tokenizers import without_tokens
from jang_eval._documents import shown_path
from jang_eval._errors import ComparisonError, OptionError
from jang_eval._evaluation import EvaluationResult, Metric
from jang_eval._model_info import ModelInfo
from jang_eval._running import identity

Named = tuple[Path, EvaluationResult]


@dataclass(frozen=True)
class Model:
    """One row: a model, named so that no other row has the same name.

    `is_reference` says that others are compared with it.
    """

    label: str
    info: ModelInfo
    is_reference: bool = False


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
class TaskTable:
    """All runs of one task, under the same rules with the same data."""

    task: str
    task_version: int
    data_sha256: str
    settings: dict[str, str]
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    pairs: tuple[PairedTest, ...]
    means: tuple[MeanTest, ...]
    flips: tuple[Flips, ...]
    answers: tuple[AnsweredQuestion, ...]

    @property
    def headlines(self) -> tuple[Column, ...]:
        """The columns that are no parts of others."""
        return tuple(column for column in self.columns if not column.whole)


@dataclass(frozen=True)
class Overview:
    """Everything that was found about some models."""

    models: tuple[Model, ...]
    tasks: tuple[TaskTable, ...]


def bring_together(
    results: Sequence[Named],
    reference: Path | None = None,
    names: Mapping[Path, str] | None = None,
) -> Overview:
    """Sorts results by model and by task, both in the order in which they first come.

    Args:
        results: At least one result, each with the file that it came from.
        reference: A result of the model that others are compared with; besides it those are
            references that a result names as its reference.
        names: What to call the models of files; by what tells them apart if None.

    Raises:
        OptionError: `reference` is none of the files.
        ComparisonError: Two results of one task differ in task version, data, settings or in the
            questions answered.
    """
    by_task: dict[str, list[int]] = {}
    for place, (_, result) in enumerate(results):
        by_task.setdefault(result.task, []).append(place)
    results = list(results)
    for places in by_task.values():
        kept = without_tokens([results[place][1] for place in places])
        for place, result in zip(places, kept, strict=True):
            results[place] = results[place][0], result
            _check_comparable(results[places[0]], results[place])
    keys = _model_keys(results, names or {})
    firsts: dict[object, Named] = {}
    for key, each in zip(keys, results, strict=True):
        firsts.setdefault(key, each)
    labels = _labels(list(firsts.values()), names or {})
    known = _references(results, keys, reference)
    models = {
        key: Model(_marked(label) if key in known else label, result.model, key in known)
        for (key, (_, result)), label in zip(firsts.items(), labels, strict=True)
    }
    runs: dict[str, list[Run]] = {}
    for key, (path, result) in zip(keys, results, strict=True):
        runs.setdefault(result.task, []).append(Run(models[key], shown_path(path), result))
    return Overview(tuple(models.values()), tuple(_table(each) for each in runs.values()))


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


def _model_keys(results: Sequence[Named], names: Mapping[Path, str]) -> list[object]:
    """Tells models apart; the same model a second time in one task is another row.

    What has a name is told by it: the first of two like models may lack what the second has.
    """
    seen: Counter[object] = Counter()
    keys: list[object] = []
    for path, result in results:
        key = names.get(path) or identity(result.model)
        keys.append((key, seen[result.task, key]))
        seen[result.task, key] += 1
    return keys


def _references(
    results: Sequence[Named], keys: Sequence[object], reference: Path | None
) -> set[object]:
    """Keys of the models that others are compared with."""
    named = {result.settings.get("reference digest") for _, result in results} - {None, ""}
    found = {
        key
        for key, (path, result) in zip(keys, results, strict=True)
        if result.model.digest in named or path == reference
    }
    if reference is not None and reference not in [path for path, _ in results]:
        raise OptionError(f"reference: found {reference}, expected one of the results")
    return found


def _marked(label: str) -> str:
    is_said = re.search(r"\breference\b", label, re.IGNORECASE)
    return label if is_said else f"{label} (reference)"


def _labels(models: Sequence[Named], names: Mapping[Path, str]) -> list[str]:
    """Names the rows: each by as little as tells it from the others, at last by its place."""
    said: tuple[Callable[[Path, ModelInfo], str], ...] = (
        lambda path, model: model.profile or model.name,
        lambda path, model: model.name,
        lambda path, model: f"{model.bits_per_weight:.2f} bpw",
        lambda path, model: shown_path(path),
    )
    labels = [names.get(path) or said[0](path, result.model) for path, result in models]
    for more in said[1:]:
        counts = Counter(labels)
        labels = [
            label if counts[label] == 1 else f"{label}, {more(path, result.model)}"
            for label, (path, result) in zip(labels, models, strict=True)
        ]
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{label}, {place}"
        for place, label in enumerate(labels, 1)
    ]


def _table(runs: Sequence[Run]) -> TaskTable:
    first = runs[0].result
    named = [(run.model.label, run.result) for run in runs]
    return TaskTable(
        task=first.task,
        task_version=first.task_version,
        data_sha256=first.data_sha256,
        settings=first.settings,
        runs=tuple(runs),
        columns=_columns(runs),
        pairs=paired_tests(named),
        means=mean_tests(named),
        flips=_flips(runs),
        answers=side_by_side(named),
    )


def _flips(runs: Sequence[Run]) -> tuple[Flips, ...]:
    found = [
        flips((known.model.label, known.result), (run.model.label, run.result))
        for known in runs
        for run in runs
        if known.model.is_reference and not run.model.is_reference
    ]
    return tuple(each for each in found if each is not None)


def _columns(runs: Sequence[Run]) -> tuple[Column, ...]:
    by_run = [{metric.name: metric for metric in run.result.metrics} for run in runs]
    columns: list[Column] = []
    for name in dict.fromkeys(name for metrics in by_run for name in metrics):
        cells = tuple(metrics.get(name) for metrics in by_run)
        first = next(cell for cell in cells if cell is not None)
        whole = next((whole for metrics in by_run if (whole := _whole(name, metrics))), "")
        columns.append(Column(name, first.unit or "%", first.better, whole, cells))
    return tuple(columns)


def _whole(name: str, metrics: Mapping[str, Metric]) -> str:
    """The metric that one with a longer name is a part of: it is of fewer questions or tokens."""
    parts = name.split("/")
    wholes = ("/".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next(
        (
            whole
            for whole in wholes
            if whole in metrics and name in metrics and metrics[name].count < metrics[whole].count
        ),
        "",
    )
