"""A rank that is gone is noticed, whatever MLX's collectives make of it."""

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jang_runtime._ranks import lifeline


@dataclass
class Meeting:
    """Where threads that stand for ranks exchange bytes."""

    size: int
    barrier: threading.Barrier = field(init=False)
    contents: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)


@dataclass
class Place:
    """A rank of threads."""

    rank: int
    meeting: Meeting
    lost: threading.Event = field(default_factory=threading.Event)

    def gather(self, content: bytes) -> list[bytes]:
        self.meeting.contents[self.rank] = content
        self.meeting.barrier.wait()
        every = [self.meeting.contents[rank] for rank in range(self.meeting.size)]
        self.meeting.barrier.wait()
        return every


def all_hold(count: int) -> list[Place]:
    meeting = Meeting(count)
    places = [Place(rank, meeting) for rank in range(count)]
    threads = [
        threading.Thread(target=lifeline.hold, args=(place, place.lost.set)) for place in places
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return places


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[socket.socket]:
    """Rank 0 is here, nobody waits long, and the ends of the others are kept."""
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([["127.0.0.1:1"], ["127.0.0.1:2"], ["127.0.0.1:3"]]))
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    monkeypatch.setattr(lifeline, "_GRACE_SECONDS", 0.1)
    kept: list[socket.socket] = []
    connect = socket.create_connection

    def keep(address: tuple[str, int], timeout: float) -> socket.socket:
        kept.append(connect(address, timeout=timeout))
        return kept[-1]

    monkeypatch.setattr(socket, "create_connection", keep)
    return kept


def test_rank_0_and_the_lost_one_see_the_end_and_the_others_go_on(
    connections: list[socket.socket],
) -> None:
    places = all_hold(3)
    assert not any(place.lost.wait(0.3) for place in places)
    assert len(connections) == 2
    connections[0].shutdown(socket.SHUT_RDWR)
    assert places[0].lost.wait(10)
    assert sorted(place.lost.wait(1) for place in places[1:]) == [False, True]


def test_a_stranger_who_does_not_know_the_token_is_no_rank(
    connections: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline, "_CONNECT_SECONDS", 1.0)
    gather = Place.gather

    def with_a_stranger(place: Place, content: bytes) -> list[bytes]:
        every = gather(place, content)
        if place.rank == 1 and len(content) > 1:
            port = struct.unpack_from("<H", every[0], 16)[0]
            with socket.socket() as stranger:
                stranger.connect(("127.0.0.1", port))
                stranger.sendall(b"x" * 16)
        return every

    monkeypatch.setattr(Place, "gather", with_a_stranger)
    places = all_hold(2)
    assert not any(place.lost.wait(0.5) for place in places)
    connections[0].shutdown(socket.SHUT_RDWR)
    assert all(place.lost.wait(10) for place in places)


def test_strangers_who_say_nothing_hold_up_no_rank(
    connections: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than ranks are waited for in this file: one of the strangers would be too long.
    monkeypatch.setattr(lifeline, "_CONNECT_SECONDS", 60.0)
    gather = Place.gather
    strangers: list[socket.socket] = []

    def beside_strangers(place: Place, content: bytes) -> list[bytes]:
        if place.rank == 0 and len(content) > 1:
            # Before any rank knows the port.
            port = struct.unpack_from("<H", content, 16)[0]
            for _ in range(3):
                strangers.append(socket.socket())
                strangers[-1].connect(("127.0.0.1", port))
        return gather(place, content)

    monkeypatch.setattr(Place, "gather", beside_strangers)
    places = all_hold(2)
    assert not any(place.lost.wait(0.3) for place in places)
    for stranger in strangers:
        # Closed by the other side.
        assert stranger.recv(1) == b""
        stranger.close()


def test_a_connection_that_takes_no_options_any_more_is_a_lost_one(
    connections: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS has it where the other side has closed."""

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    assert all(place.lost.wait(10) for place in all_hold(2))


@pytest.mark.parametrize("hosts", [None, [["192.0.2.1:1"]]], ids=["unknown", "of another machine"])
def test_without_an_address_of_rank_0_ranks_go_on_and_say_so(
    hosts: list[list[str]] | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("MLX_HOSTFILE", raising=False)
    if hosts is not None:
        (tmp_path / "hosts.json").write_text(json.dumps(hosts))
        monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))
    assert not any(place.lost.wait(0.2) for place in all_hold(2))
    assert caplog.text.count("the end of another rank may go unnoticed") == 2
