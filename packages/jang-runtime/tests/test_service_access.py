"""The file of tokens: what it may hold, and that it is read again."""

import hmac
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jang_runtime import ListenError
from jang_runtime._errors import UnauthenticatedError
from jang_runtime._service import access
from jang_runtime._service.access import TokenFile

ONE, TWO = "first-token-of-all", "second-token-of-all"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def caller(tokens: TokenFile, token: str) -> str | None:
    try:
        return tokens.caller([f"Bearer {token}"])
    except UnauthenticatedError:
        return None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "found no token, expected lines NAME TOKEN"),
        ("# only this\n\n", "found no token, expected lines NAME TOKEN"),
        (f"a {ONE}\n{TWO}\n", "line 2: found 1 words, expected NAME TOKEN"),
        (f"a {ONE} {TWO}\n", "line 1: found 3 words, expected NAME TOKEN"),
        ("a fifteen-letters\n", "line 1: found a token of 15 characters, expected at least 16"),
        (f"a {ONE}\n\na {TWO}\n", "line 3: found a name that an earlier line has"),
        (f"a {ONE}\nb {ONE}\n", "line 2: found a token that an earlier line has"),
        (f"a/b {ONE}\n", "line 1: expected a name of at most 64 letters"),
        ("a größer-als-sechzehn\n", "line 1: expected a token of ASCII letters"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_without_its_tokens(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = write(tmp_path / "tokens", text)
    with pytest.raises(ListenError) as caught:
        TokenFile(path)
    message = str(caught.value)
    assert message.startswith(f"--auth-tokens: {path}: {complaint}")
    assert not any(word in message for word in text.split() if len(word) > 14)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="nowhere: No such file or directory"):
        TokenFile(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"a \xff\xfe")
    with pytest.raises(ListenError, match="binary: found bytes that are no UTF-8 text"):
        TokenFile(tmp_path / "binary")


def test_a_changed_file_is_read_again_but_looked_at_no_more_than_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(access.time, "monotonic", lambda: now)
    path = write(tmp_path / "tokens", f"a {ONE}\n")
    tokens = TokenFile(path)
    # Replaced as careful editors do it.
    os.replace(write(tmp_path / "new", f"b {TWO}\n"), path)
    now += 0.9
    assert (caller(tokens, ONE), caller(tokens, TWO)) == ("a", None)
    now += 0.2
    assert (caller(tokens, ONE), caller(tokens, TWO)) == (None, "b")


@pytest.mark.parametrize("spoil", [lambda path: write(path, f"b {TWO}\nbad"), Path.unlink])
def test_a_file_that_goes_bad_leaves_the_tokens_as_they_are_and_says_so_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
) -> None:
    monkeypatch.setattr(access, "_SECONDS_BETWEEN_LOOKS", 0.0)
    path = write(tmp_path / "tokens", f"a {ONE}\n")
    tokens = TokenFile(path)
    spoil(path)
    with caplog.at_level(logging.INFO, "jang_runtime"):
        for _ in range(3):
            assert (caller(tokens, ONE), caller(tokens, TWO)) == ("a", None)
        assert [record.message for record in caplog.records] == ["tokens_kept"]
        assert ONE not in str(vars(caplog.records[0]))
        write(path, f"b {TWO}\n")
        assert caller(tokens, TWO) == "b"
        assert caplog.records[-1].message == "tokens_loaded"


def test_reload_reads_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "tokens", f"a {ONE}\n")
    tokens = TokenFile(path)
    write(path, f"b {TWO}\n")
    tokens.reload()
    assert (caller(tokens, ONE), caller(tokens, TWO)) == (None, "b")


def test_every_token_is_compared_whichever_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = TokenFile(write(tmp_path / "tokens", f"a {ONE}\nb {TWO}\nc {ONE}{TWO}\n"))
    lengths: list[int] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        lengths.append(len(other))
        return compare(one, other)

    monkeypatch.setattr(access.hmac, "compare_digest", counted)
    assert [caller(tokens, token) for token in (ONE, TWO, "x")] == ["a", "b", None]
    # Digests: all of one length, which tells nothing of the tokens'.
    assert lengths == [32] * 9


def test_tokens_are_not_kept_in_memory(tmp_path: Path) -> None:
    tokens = TokenFile(write(tmp_path / "tokens", f"a {ONE}\n"))
    assert ONE not in str(vars(tokens))


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    path = write(tmp_path / "tokens", f"a {ONE}\n")
    path.chmod(mode)
    TokenFile(path)
    assert [record.message for record in caplog.records] == ["tokens_readable"] * warns
