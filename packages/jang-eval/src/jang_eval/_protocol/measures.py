"""What is measured of every model; what is there already is not measured again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

from jang_eval._errors import ResultFileError
from jang_eval._evaluation import EvaluationResult, Task
from jang_eval._journal import Journal
from jang_eval._model_info import ModelInfo
from jang_eval._reference.file import Header
from jang_eval._reference.making import MakeRecord
from jang_eval._reference.reader import ReferenceFile
from jang_eval._reference.writing import stored_beginning, write_reference
from jang_eval._result_files import read_result
from jang_eval._running import description, journal_path, run_task
from jang_eval._target import Target
from jang_eval._text import shown_value

Say: TypeAlias = Callable[[str], None]
Show: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        name: Of the task; results are `MODEL-NAME.json`.
        run: Measures a server, and returns the seconds that this took, also when that was earlier.
        needs: What has to be stored of the reference before; empty if nothing has.
    """

    name: str
    run: Callable[[Target, Path, Say, Show], float]
    needs: str = ""


def measure_task(
    name: str, make_task: Callable[[Target], Task], in_flight: int, needs: str = ""
) -> Measure:
    """The measure that is a task."""

    def run(target: Target, output: Path, say: Say, show: Show) -> float:
        task, model = make_task(target), target.model_info()
        found = _existing(output, say, task, model)
        if found is not None:
            return found.seconds
        _clear_foreign_journal(task, model, output, say)
        return run_task(task, target, in_flight=in_flight, output=output, on_progress=show).seconds

    return Measure(name, run, needs)


def store_reference(
    header: Header,
    make: MakeRecord,
    path: Path,
    *,
    max_bytes: int,
    in_flight: int,
    say: Say,
    show: Show,
) -> None:
    """Write a reference's file, unless it is there.

    Raises:
        OptionError: It would be larger than allowed, or than there is room for.
        ResultFileError: It cannot be written.
        TargetError: The server is unreachable, too slow, or refuses.
    """
    if path.exists():
        try:
            found = ReferenceFile(path).header
        except ResultFileError as error:
            say(f"{error}; it is written again")
        else:
            if found == header:
                return
            say(f"{path}: found it of another model, text or windows; it is written again")
        forget(path)
    partial = journal_path(path)
    beginning = header.encoded()
    if partial.exists() and not beginning.startswith(stored_beginning(partial, len(beginning))):
        say(f"{partial}: found the beginning of another reference; it is begun anew")
        forget(partial)
    write_reference(header, make, path, max_bytes=max_bytes, in_flight=in_flight, on_progress=show)


def forget(path: Path) -> None:
    """Delete a file that is no more true, if there is one.

    Raises:
        ResultFileError: It cannot be.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be deleted: {error.strerror}") from error


def _existing(output: Path, say: Say, task: Task, model: ModelInfo) -> EvaluationResult | None:
    """A result that is there, if it is of this model, task, data and settings; else why not."""
    if not output.exists():
        return None
    try:
        result = read_result(output)
    except ResultFileError as error:
        say(f"{error}; it is measured again")
        return None
    for field, found, expected in _differences(result, task, model):
        if found != expected:
            say(
                f"{output}: {field}: found {shown_value(found)}, expected {shown_value(expected)}; "
                "it is measured again"
            )
            return None
    return result


def _differences(
    result: EvaluationResult, task: Task, model: ModelInfo
) -> Iterable[tuple[str, object, object]]:
    yield "task", result.task, task.name
    yield "task_version", result.task_version, task.version
    yield "data_sha256", result.data_sha256, task.data_sha256
    for name in sorted({*result.settings, *task.settings}):
        yield f"settings.{name}", result.settings.get(name), task.settings.get(name)
    yield from _model_differences(result.model, model)
    yield "outcomes", [each.id for each in result.outcomes], [each.id for each in task.items]


def _model_differences(
    found: ModelInfo, expected: ModelInfo
) -> Iterable[tuple[str, object, object]]:
    for field in fields(ModelInfo):
        yield f"model.{field.name}", getattr(found, field.name), getattr(expected, field.name)


def _clear_foreign_journal(task: Task, model: ModelInfo, output: Path, say: Say) -> None:
    """Forget what an interrupted run of other rules or of another model left behind."""
    journal = journal_path(output)
    if not journal.exists():
        return
    try:
        with Journal(journal, description(task, model)):
            pass
    except ResultFileError as error:
        say(f"{error}; it is begun anew")
        forget(journal)
