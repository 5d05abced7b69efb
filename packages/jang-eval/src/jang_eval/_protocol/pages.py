"""The pages of a report: what `compare` makes of its results, and what is to be known of them."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from jang_eval._compare.document import overview_document
from jang_eval._compare.overview import Named, Overview, bring_together
from jang_eval._compare.pages import overview_page
from jang_eval._compare.table import overview_markdown
from jang_eval._documents import write_whole
from jang_eval._errors import ComparisonError
from jang_eval._protocol.candidates import REFERENCE
from jang_eval._protocol.measures import forget
from jang_eval._protocol.running import Failure, Report
from jang_eval._result_files import read_result
from jang_eval._text import escaped, fenced

# From the root on, up to the last name.
_DIRECTORIES: Final = re.compile(r"(?<![\w.~:/-])(?:/[^/\s'\":;,()]+)*/(?=[^/\s])")


@dataclass(frozen=True)
class Making:
    """How a report was made: the command, and the commit of the code, empty where nobody said."""

    command: str
    commit: str

    @property
    def stated(self) -> dict[str, str]:
        """What is known of it, by name."""
        facts = {"Command": self.command, "Commit": self.commit}
        return {name: fact for name, fact in facts.items() if fact}


def bring_report_together(report: Report) -> Overview | None:
    """All results that can be compared; what cannot becomes a failure. None without results."""
    firsts: dict[str, Named] = {}
    taken: list[Named] = []
    labels: dict[Path, str] = {}
    for model, path in report.results:
        result = read_result(path)
        first = firsts.setdefault(result.task, (path, result))
        try:
            bring_together([first, (path, result)])
        except ComparisonError as error:
            report.failures.append(Failure(model, f"{result.task} in comparison", str(error)))
            continue
        taken.append((path, result))
        labels[path] = model
    if not taken:
        return None
    reference = next((path for path, model in labels.items() if model == REFERENCE), None)
    return bring_together(taken, reference, labels)


def write_pages(
    overview: Overview | None,
    work: Path,
    title: str,
    notes: Sequence[str],
    failures: Sequence[Failure],
    making: Making,
) -> None:
    """Write report.md and report.html; the latter not without results.

    Raises:
        ResultFileError: They cannot be written.
    """
    failed = (_without_places(describe_failure(each), work) for each in failures)
    lines = [*notes, *(f"Failed: {line}" for line in failed)]
    made = [f"- {name}: {fenced(fact)}" for name, fact in making.stated.items()]
    listed = "\n".join([*(f"- {escaped(line)}" for line in lines), *made])
    parts = [f"# {escaped(title)}", listed]
    if overview is None:
        # One from before would tell of other models.
        forget(work / "report.html")
    else:
        parts.append(overview_markdown(overview))
        lines += [f"{name}: {fact}" for name, fact in making.stated.items()]
        page = overview_page(overview, commit=making.commit, notes=lines)
        write_whole(page, work / "report.html")
    write_whole("\n\n".join(part.rstrip("\n") for part in parts if part) + "\n", work / "report.md")


def report_document(
    overview: Overview | None, notes: Sequence[str], failures: Sequence[Failure], making: Making
) -> dict[str, Any]:
    """What `--json` prints."""
    empty: dict[str, Any] = {"models": [], "tasks": []}
    found = empty if overview is None else overview_document(overview)
    listed = [{"model": each.model, "step": each.step, "reason": each.reason} for each in failures]
    return {**found, "notes": [*notes], "failures": listed, **asdict(making)}


def _without_places(line: str, work: Path) -> str:
    """A line without the directories of this machine, as pages for others have it."""
    # These may have spaces in them.
    for known in (work, Path.cwd(), Path.home()):
        line = line.replace(f"{known.absolute()}/", "").replace(f"{known.resolve()}/", "")
    return _DIRECTORIES.sub("", line)


def describe_failure(failure: Failure) -> str:
    """One line."""
    return f"{failure.model}: {failure.step}: {failure.reason}"
