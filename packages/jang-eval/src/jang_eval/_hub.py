"""Data sets of the Hugging Face hub, as the files that tasks read (needs the extra `hub`).

The hub has them as parquet; they are written in the forms in which others publish them, so that
tasks know one form and their digest does not depend on how parquet was packed.
"""

import csv
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from jang_eval._errors import DataError

_PREFIX: Final = "hub:"
_NAME: Final = re.compile(
    r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<configuration>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)

_SHOWN_CHARACTERS: Final = 40

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """What a task takes of a data set.

    Attributes:
        configuration: Where the name says none; empty if there is no such.
        splits: Of the data set.
        columns: That rows have to have, and of which type.
        write: Writes rows of a split into a directory, and returns what the task reads.
    """

    configuration: str
    splits: tuple[str, ...]
    columns: Mapping[str, type]
    write: Callable[[Iterable[Row], str, Path], Path]


@dataclass(frozen=True)
class LocalData:
    """Data on this machine; `source` says where on the hub they are from, with the revision."""

    path: Path
    source: str = ""


@dataclass(frozen=True)
class LocalTexts:
    """Texts on this machine; `source` says what of them is from where on the hub."""

    paths: tuple[Path, ...]
    source: str


def is_hub_name(data: Path) -> bool:
    """Whether a `--data` names a data set of the hub."""
    return str(data).startswith(_PREFIX)


@contextmanager
def local_data(data: Path, form: Form) -> Generator[LocalData]:
    """Data as files: those of the machine as they are, those of the hub for as long as they last.

    Args:
        data: A path, or `hub:OWNER/NAME[/CONFIGURATION][@REVISION]`.
        form: What the task takes.

    Raises:
        DataError: The name is none, the hub does not give it, or it is something else.
    """
    if not is_hub_name(data):
        yield LocalData(data)
        return
    match = _NAME.fullmatch(str(data))
    configuration = (match and match["configuration"]) or form.configuration
    if match is None or not configuration:
        expected = "hub:OWNER/NAME/CONFIGURATION, and @REVISION if wanted"
        raise DataError(f"data: found {str(data)!r}, expected {expected}")
    directory = _download(str(data), match, configuration, form.splits)
    with TemporaryDirectory() as made:
        paths = [
            form.write(_rows(str(data), directory / configuration, split, form), split, Path(made))
            for split in form.splits
        ]
        # The hub's cache has each revision in a directory named by its commit.
        source = f"{_PREFIX}{match['repository']}/{configuration}@{directory.name}"
        yield LocalData(paths[0], source)


def _download(name: str, match: re.Match[str], configuration: str, splits: Sequence[str]) -> Path:
    try:
        from huggingface_hub import (
            snapshot_download,  # pyright: ignore[reportUnknownVariableType]
        )
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise DataError(f"{name}: found no extra hub, expected jang-eval[hub]") from error
    try:
        directory = snapshot_download(
            match["repository"],
            repo_type="dataset",
            revision=match["revision"],
            allow_patterns=[f"{configuration}/{split}-*.parquet" for split in splits],
        )
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{name}: not in the local cache, and the Hugging Face hub cannot be reached"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(
            f"{name}: the Hugging Face hub does not give it ({_reason(error)})"
        ) from error
    return Path(directory)


def _rows(name: str, directory: Path, split: str, form: Form) -> Generator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{name}: found no extra hub, expected jang-eval[hub]") from error
    files = sorted(directory.glob(f"{split}-*.parquet"))
    if not files:
        expected = f"{directory.name}/{split}-*.parquet"
        raise DataError(f"{name}: found no such files there, expected {expected}")
    expected = f"parquet with {', '.join(form.columns)}"
    for file in files:
        try:
            rows: Sequence[Row] = parquet.read_table(file, columns=[*form.columns]).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            found = f"{file.name} ({_reason(error)})"
            raise DataError(f"{name}: found {found}, expected {expected}") from error
        for row in rows:
            for column, kind in form.columns.items():
                if not isinstance(row[column], kind):
                    found = f"{column} {ascii(row[column])[:_SHOWN_CHARACTERS]} in {file.name}"
                    raise DataError(f"{name}: found {found}, expected {kind.__name__}")
            yield row


def _reason(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _write_mmlu(rows: Iterable[Row], split: str, directory: Path) -> Path:
    subjects: dict[str, list[list[Any]]] = {}
    for row in rows:
        line = [row["question"], *row["choices"], row["answer"]]
        subjects.setdefault(row["subject"], []).append(line)
    (directory / split).mkdir()
    for subject, lines in subjects.items():
        if not re.fullmatch(r"\w+", subject):
            raise DataError(f"data: found subject {subject!r}, expected MMLU's")
        path = directory / split / f"{subject}_{split}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(["question", "choice0", "choice1", "choice2", "choice3", "answer"])
            writer.writerows(lines)
    return directory


def _write_problems(rows: Iterable[Row], split: str, directory: Path) -> Path:
    path = directory / "HumanEval.jsonl"
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def _write_text(rows: Iterable[Row], split: str, directory: Path) -> Path:
    # The rows of wikitext are lines, with their ends or without.
    path = directory / f"{split}.txt"
    lines = (row["text"].removesuffix("\n") + "\n" for row in rows)
    path.write_bytes("".join(lines).encode())
    return path


MMLU: Final = Form(
    "all",
    ("test", "dev"),
    {"subject": str, "question": str, "choices": list, "answer": int},
    _write_mmlu,
)
HUMANEVAL: Final = Form(
    "openai_humaneval",
    ("test",),
    dict.fromkeys(("task_id", "prompt", "entry_point", "test"), str),
    _write_problems,
)
TEXT: Final = Form("", ("test",), {"text": str}, _write_text)


@contextmanager
def local_texts(data: Sequence[Path]) -> Generator[LocalTexts]:
    """Texts as files; see `local_data`."""
    with ExitStack() as stack:
        found = [stack.enter_context(local_data(each, TEXT)) for each in data]
        source = ", ".join(each.source for each in found if each.source)
        yield LocalTexts(tuple(each.path for each in found), source)
