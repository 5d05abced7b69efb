"""Runs a report: one model after the other, every measure of each; a failure ends only its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final, TypeAlias

from jang_eval._errors import JangEvalError, ProgramError, ResultFileError
from jang_eval._protocol.candidates import Candidate, make
from jang_eval._protocol.measures import Measure, Say, Show
from jang_eval._protocol.programs import served
from jang_eval._protocol.project import Project, store_prompts, store_texts
from jang_eval._protocol.steps import Steps
from jang_eval._target import Target

# Shows the progress of one step of that name.
ShowStep: TypeAlias = Callable[[str], AbstractContextManager[Show]]

_CONVERT: Final = "convert"
_SERVE: Final = "serve"
_STORE_PROMPTS: Final = "store logits of prompts"
_STORE_TEXTS: Final = "store logits of texts"


@dataclass(frozen=True)
class Failure:
    """What could not be done: the model, the step, and why."""

    model: str
    step: str
    reason: str


@dataclass
class Report:
    """What came of a report.

    Attributes:
        results: Model and file of each result, in the order of models and measures.
        failures: What could not be done.
    """

    results: list[tuple[str, Path]] = field(default_factory=list[tuple[str, Path]])
    failures: list[Failure] = field(default_factory=list[Failure])


def run_protocol(
    project: Project, measures: Sequence[Measure], say: Say, show_step: ShowStep
) -> Report:
    """Make, serve and measure every model; what is there already is not done again.

    Args:
        project: What is to be done.
        measures: See `project.measures`.
        say: Takes lines about what happens.
        show_step: Shows the progress of a step.

    Raises:
        ResultFileError: The work directory cannot be written.
    """
    try:
        for name in ("models", "results", "logs", "reference"):
            (project.work / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultFileError(f"{project.work}: cannot be written: {error.strerror}") from error
    runner = _Runner(project, measures, say, show_step)
    for candidate in project.candidates:
        runner.run(candidate)
    return runner.report


class _Runner:
    def __init__(
        self, project: Project, measures: Sequence[Measure], say: Say, show_step: ShowStep
    ) -> None:
        self._project = project
        self._measures = measures
        self._say = say
        self._show_step = show_step
        self._steps = Steps(
            [(each.name, name) for each in project.candidates for name in self._names(each)]
        )
        self.report = Report()

    def run(self, candidate: Candidate) -> None:
        """Everything about one model."""
        if self._do(candidate, _CONVERT, partial(self._convert, candidate)):
            self._serve(candidate)
        # What a model without a server cannot be asked takes no time.
        for step in [each for each in self._steps.left if each[0] == candidate.name]:
            self._steps.end(step, None)

    def _names(self, candidate: Candidate) -> list[str]:
        stores = [*self._stores()] if self._is_reference(candidate) else []
        return [_CONVERT, _SERVE, *stores, *(measure.name for measure in self._measures)]

    def _stores(self) -> Mapping[str, Callable[[Project, Target, Say, Show], None]]:
        stores = {_STORE_PROMPTS: store_prompts}
        return stores | {_STORE_TEXTS: store_texts} if self._project.data.texts else stores

    def _is_reference(self, candidate: Candidate) -> bool:
        return candidate is self._project.candidates[0]

    def _convert(self, candidate: Candidate, show: Show) -> float | None:
        begun = perf_counter()
        log = self._project.log(candidate, _CONVERT)
        is_new = make(self._project.source, candidate, log)
        return perf_counter() - begun if is_new else None

    def _serve(self, candidate: Candidate) -> None:
        project, begun = self._project, perf_counter()
        log = project.log(candidate, _SERVE)
        self._say(self._steps.describe((candidate.name, _SERVE)))
        try:
            with (
                served(candidate.directory, project.threads, log) as server,
                Target(server.address, timeout=project.timeout) as target,
            ):
                self._steps.end((candidate.name, _SERVE), perf_counter() - begun)
                for name, work in self._work(candidate, target):
                    self._do(candidate, name, work)
                    server.check()
        except ProgramError as error:
            self._fail(candidate, _SERVE, error)

    def _work(
        self, candidate: Candidate, target: Target
    ) -> Iterator[tuple[str, Callable[[Show], float | None]]]:
        """What is done with a model that is served."""
        if self._is_reference(candidate):
            for name, store in self._stores().items():
                yield name, partial(store, self._project, target, self._say)
        for measure in self._measures:
            yield measure.name, partial(self._measure, candidate, measure, target)

    def _measure(
        self, candidate: Candidate, measure: Measure, target: Target, show: Show
    ) -> float | None:
        output = self._project.result(candidate, measure.name)
        seconds = measure.run(target, output, self._say, show)
        self.report.results.append((candidate.name, output))
        return seconds

    def _do(self, candidate: Candidate, name: str, work: Callable[[Show], float | None]) -> bool:
        """One step; returns whether it came to its end."""
        step = (candidate.name, name)
        self._say(self._steps.describe(step))
        seconds = None
        try:
            with self._show_step(f"{candidate.name}: {name}") as show:
                seconds = work(show)
        except JangEvalError as error:
            self._fail(candidate, name, error)
            return False
        finally:
            self._steps.end(step, seconds)
        return True

    def _fail(self, candidate: Candidate, name: str, error: JangEvalError) -> None:
        self.report.failures.append(Failure(candidate.name, name, str(error)))
        self._say(f"error: {candidate.name}: {name}: {error}")
