"""What errors say."""

import pytest

from jang_format import first_line


@pytest.mark.parametrize(
    ("error", "line", "named"),
    [
        (ValueError("one"), "one", "ValueError: one"),
        (ValueError("one\ntwo"), "one", "ValueError: one"),
        (ValueError("\n  one\n"), "one", "ValueError: one"),
        (KeyError("vocab_size"), "'vocab_size'", "KeyError: 'vocab_size'"),
        (ValueError(), "ValueError", "ValueError"),
        (RuntimeError("\n"), "RuntimeError", "RuntimeError"),
    ],
)
def test_an_error_of_another_library_is_told_in_one_line(
    error: Exception, line: str, named: str
) -> None:
    assert first_line(error) == line
    assert first_line(error, named=True) == named
