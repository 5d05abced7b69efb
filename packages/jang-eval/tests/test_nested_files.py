"""Files that are nested deeper than a parser goes: one line, and no traceback."""

from pathlib import Path

import pytest

from jang_eval._errors import DataError, ResultFileError
from jang_eval._journal import Journal
from jang_eval._tasks.qa_questions import read_questions

DEEP = "[" * 200_000


def test_a_journal_nested_without_end_is_none(tmp_path: Path) -> None:
    path = tmp_path / ".r.json.partial"
    path.write_text(DEEP + "\n")
    with pytest.raises(
        ResultFileError, match=r"\.partial: found no journal of a run \(.*delete it"
    ):
        Journal(path, {})


def test_questions_nested_without_end_are_none(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"questions = {DEEP}")
    with pytest.raises(DataError, match=r"own\.toml: "):
        read_questions(path)
