"""What a task is, and what came of it: the same for all tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jang_eval._model_info import ModelInfo
from jang_eval._statistics import Interval
from jang_eval._target import Target


@dataclass(frozen=True)
class Metric:
    """A number, and how sure it is.

    Attributes:
        name: Such as "accuracy" or "accuracy/astronomy".
        value: The number.
        interval: 95 %; None where the number is no estimate.
        unit: Such as "nats"; empty for shares.
        better: "higher", "lower" or "" where neither is.
        count: Of how many questions, tokens or documents.
    """

    name: str
    value: float
    interval: Interval | None
    unit: str
    better: str
    count: int


@dataclass(frozen=True)
class Item:
    """One thing that a server is asked.

    Attributes:
        id: Names it in this version of the data.
        group: Subject or document.
        content: What the task needs to ask; not kept in results.
    """

    id: str
    group: str
    content: Any = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """What came of one item, as results keep it.

    Attributes:
        id: The item's.
        group: The item's.
        numbers: Such as "correct".
        texts: Such as "answer".
        arrays: Numbers for each token and the like.
    """

    id: str
    group: str
    numbers: dict[str, float]
    texts: dict[str, str] = field(default_factory=dict[str, str])
    arrays: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])


@dataclass(frozen=True)
class Task:
    """What is asked, and how it is judged.

    Attributes:
        name: Such as "mmlu".
        version: Raised whenever the same model could come to other numbers from the same data.
        data_sha256: Digest of the data.
        settings: What can be chosen, as results keep it; results of other settings are not
            compared.
        items: What is asked.
        ask: Asks a server about one item; called in several threads at once.
        aggregate: Makes numbers of all outcomes.
        data_source: Where on the hub the data are from, with the revision; empty if from files.
    """

    name: str
    version: int
    data_sha256: str
    settings: Mapping[str, str]
    items: Sequence[Item]
    ask: Callable[[Target, Item], Outcome]
    aggregate: Callable[[Sequence[Outcome]], Sequence[Metric]]
    data_source: str = ""


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that one run of a task found, with what it takes to repeat it."""

    task: str
    task_version: int
    data_sha256: str
    jang_eval_version: str
    target: str
    settings: dict[str, str]
    model: ModelInfo
    metrics: tuple[Metric, ...]
    outcomes: tuple[Outcome, ...]
    seconds: float
    # Results from before it was there have none.
    data_source: str = ""
