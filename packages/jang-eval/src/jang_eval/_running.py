"""Runs a task against a server: several questions at a time, resumed where it was interrupted."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter
from typing import Any

from jang_eval._documents import check_writable
from jang_eval._evaluation import EvaluationResult, Item, Outcome, Task
from jang_eval._journal import Journal
from jang_eval._model_info import ModelInfo
from jang_eval._result_files import write_result
from jang_eval._target import Target
from jang_eval._version import __version__


def run_task(
    task: Task,
    target: Target,
    *,
    in_flight: int = 4,
    output: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationResult:
    """Ask a server everything, and judge it.

    Args:
        task: What to ask.
        target: The server.
        in_flight: How many questions to ask at a time.
        output: Where the result is written; beside it, until then, stands what has come so far
            (`.FILE.partial`), from which the same call goes on.
        on_progress: Called with questions answered and questions in all.

    Raises:
        TargetError: The server is unreachable, too slow, or refuses.
        ResultFileError: A file cannot be written, or belongs to another run.
    """
    begun = perf_counter()
    model = target.model_info()
    with ExitStack() as stack:
        if output is None:
            place = Path(stack.enter_context(TemporaryDirectory())) / "journal"
        else:
            check_writable(output)
            place = journal_path(output)
        journal = stack.enter_context(Journal(place, description(task, model)))
        _ask_the_rest(task, target, journal, in_flight, on_progress)
        outcomes = [journal.outcomes[item.id] for item in task.items]
        result = EvaluationResult(
            task=task.name,
            task_version=task.version,
            data_sha256=task.data_sha256,
            jang_eval_version=__version__,
            target=target.address,
            settings=dict(task.settings),
            model=model,
            metrics=tuple(task.aggregate(outcomes)),
            outcomes=tuple(outcomes),
            seconds=round(perf_counter() - begun, 3),
            data_source=task.data_source,
        )
        if output is not None:
            write_result(result, output)
        journal.remove()
    return result


def journal_path(output: Path) -> Path:
    """Where what has come so far of a result stands."""
    return output.with_name(f".{output.name}.partial")


def identity(model: ModelInfo) -> str:
    """What tells a model from others: its digest, or as much as its server says of it."""
    size = f"{model.bits_per_weight:g} bits per weight, {model.weight_bytes} bytes"
    return model.digest or f"{model.name}, {model.profile or 'no profile'}, {size}"


def description(task: Task, model: ModelInfo) -> dict[str, Any]:
    """What makes outcomes belong to one run."""
    return {
        "task": task.name,
        "task_version": task.version,
        "data_sha256": task.data_sha256,
        "settings": dict(task.settings),
        "model": identity(model),
        "items": len(task.items),
    }


class _NotAskedError(Exception):
    """A question that was not asked because the run is about to end."""


def _ask_the_rest(
    task: Task,
    target: Target,
    journal: Journal,
    in_flight: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Ask what the journal has not got; after a failure only what is under way is waited for."""
    left = [item for item in task.items if item.id not in journal.outcomes]
    on_progress(len(task.items) - len(left), len(task.items))
    is_ending = Event()
    failure: BaseException | None = None

    def ask(item: Item) -> Outcome:
        if is_ending.is_set():
            raise _NotAskedError
        try:
            return task.ask(target, item)
        except BaseException:
            # Here and not where results are read: by then others have been asked.
            is_ending.set()
            raise

    futures: list[Future[Outcome]] = []
    try:
        with ThreadPoolExecutor(in_flight) as pool:
            try:
                futures += [pool.submit(ask, item) for item in left]
                for future in as_completed(futures):
                    error = future.exception()
                    if error is None:
                        journal.add(future.result())
                        on_progress(len(journal.outcomes), len(task.items))
                    elif not isinstance(error, _NotAskedError):
                        failure = failure or error
            except BaseException:
                # On Ctrl-C no answer that is still to come is waited for.
                is_ending.set()
                target.close()
                raise
    except (KeyboardInterrupt, SystemExit):
        _keep_what_came(futures, journal)
        raise
    if failure is not None:
        raise failure


def _keep_what_came(futures: Sequence[Future[Outcome]], journal: Journal) -> None:
    """Keep what had been answered, and was worked on, when the run was ended."""
    for future in futures:
        if future.done() and not future.cancelled() and future.exception() is None:
            outcome = future.result()
            if outcome.id not in journal.outcomes:
                journal.add(outcome)
