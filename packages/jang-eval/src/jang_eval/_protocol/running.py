"""Runs a report: one model after the other, every measure of each; a failure ends only its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Final, TypeAlias

from jang_eval._errors import JangEvalError, ProgramError, ResultFileError
from jang_eval._protocol.candidates import Candidate, make
from jang_eval._protocol.measures import Measure, Say, Show
from jang_eval._protocol.programs import served
from jang_eval._protocol.project import STORES, Project
from jang_eval._protocol.steps import Steps
from jang_eval._target import Target

# Shows the progress of one step of that name.
ShowStep: TypeAlias = Callable[[str], AbstractContextManager[Show]]

_CONVERT: Final = "convert"
_SERVE: Final = "serve"


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
        # In this run: a file from another one may be of another reference.
        self._stored: set[str] = set()
        self.report = Report()

    def run(self, candidate: Candidate) -> None:
        """Everything about one model."""
        if self._do(candidate, _CONVERT, partial(self._convert, candidate)):
            self._serve(candidate)
        # What a model without a server cannot be asked takes no time.
        for step in [each for each in self._steps.left if each[0] == candidate.name]:
            self._steps.end(step, None)

    def _names(self, candidate: Candidate) -> list[str]:
        measured = [[*self._stores(candidate, each), each.name] for each in self._measures]
        return [_CONVERT, _SERVE, *chain(*measured)]

    def _stores(self, candidate: Candidate, measure: Measure) -> list[str]:
        """What is stored of a model just before it is measured."""
        return [measure.needs] if measure.needs and self._is_reference(candidate) else []

    def _is_reference(self, candidate: Candidate) -> bool:
        return candidate is self._project.candidates[0]

    def _convert(self, candidate: Candidate, show: Show) -> float | None:
        begun = perf_counter()
        log = self._project.log(candidate, _CONVERT)
        is_new = make(candidate, log)
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
        except JangEvalError as error:
            self._fail(candidate, _SERVE, error)

    def _work(
        self, candidate: Candidate, target: Target
    ) -> Iterator[tuple[str, Callable[[Show], float | None]]]:
        """What is done with a model that is served."""
        for measure in self._measures:
            # Not before what comes without it: speed has the memory of a server in plain use.
            for name in self._stores(candidate, measure):
                yield name, partial(self._store, name, target)
            yield measure.name, partial(self._measure, candidate, measure, target)

    def _store(self, name: str, target: Target, show: Show) -> None:
        STORES[name](self._project, target, self._say, show)
        self._stored.add(name)

    def _measure(
        self, candidate: Candidate, measure: Measure, target: Target, show: Show
    ) -> float | None:
        if measure.needs and measure.needs not in self._stored:
            raise ProgramError("there is nothing to compare with, for the reference was not stored")
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
