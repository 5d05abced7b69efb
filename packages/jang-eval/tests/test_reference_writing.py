"""Storing what a reference says, without a server."""

import threading
from pathlib import Path
from typing import Any

import pytest

from jang_eval._errors import TargetError
from jang_eval._model_info import ModelInfo
from jang_eval._reference.file import FULL, Header, StoredWindow
from jang_eval._reference.writing import write_reference

COUNT = 12


def a_header() -> Header:
    model = ModelInfo("m", "llama", "", 16.0, 1, 64, 8, (1,), True, "", "")
    windows = tuple(StoredWindow(f"{n}", 3) for n in range(COUNT))
    return Header(FULL, model, "ab", "cd", None, windows)


def a_record(place: int) -> bytes:
    header = a_header()
    return bytes([place]) * header.record_bytes(header.windows[place])


def write(make: Any, output: Path, in_flight: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    write_reference(
        a_header(),
        make,
        output,
        max_bytes=10**9,
        in_flight=in_flight,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    return seen


def test_several_records_are_made_at_a_time_and_stand_in_order(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    last_is_made = threading.Event()

    def make(place: int) -> bytes:
        both.wait(timeout=30)
        # Of two the second is there first.
        if place % 2:
            last_is_made.set()
        else:
            assert last_is_made.wait(30)
            last_is_made.clear()
        return a_record(place)

    seen = write(make, tmp_path / "r.bin", 2)

    assert seen == [(done, COUNT) for done in range(COUNT + 1)]
    expected = a_header().encoded() + b"".join(map(a_record, range(COUNT)))
    assert (tmp_path / "r.bin").read_bytes() == expected


def test_what_was_stored_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def make(place: int) -> bytes:
        asked.append(place)
        if place == 5 and len(asked) <= 6:
            raise TargetError("gone")
        return a_record(place)

    with pytest.raises(TargetError, match="gone"):
        write(make, tmp_path / "r.bin", 1)
    assert asked == [0, 1, 2, 3, 4, 5]

    assert write(make, tmp_path / "r.bin", 3)[0] == (5, COUNT)
    assert sorted(asked[6:]) == [*range(5, COUNT)]
    expected = a_header().encoded() + b"".join(map(a_record, range(COUNT)))
    assert (tmp_path / "r.bin").read_bytes() == expected


def test_no_more_records_wait_than_are_made_at_a_time(tmp_path: Path) -> None:
    made: list[int] = []
    most = 0

    def make(place: int) -> bytes:
        made.append(place)
        return a_record(place)

    def look(done: int, total: int) -> None:
        nonlocal most
        most = max(most, len(made) - done)

    write_reference(
        a_header(),
        make,
        tmp_path / "r.bin",
        max_bytes=10**9,
        in_flight=3,
        on_progress=look,
    )
    assert most <= 3


def test_ctrl_c_does_not_wait_for_what_is_under_way(tmp_path: Path) -> None:
    is_over = threading.Event()
    ended: list[bool] = []

    def make(place: int) -> bytes:
        if place:
            ended.append(is_over.wait(30))
        return a_record(place)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_reference(
            a_header(),
            make,
            tmp_path / "r.bin",
            max_bytes=10**9,
            in_flight=2,
            on_progress=interrupt,
        )
    assert ended == []
    is_over.set()
