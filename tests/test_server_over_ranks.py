"""A server over two processes answers as one process does, and ends in a line when one is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from runpy import run_path

import mlx.core as mx
import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import (
    Client,
    Delta,
    Engine,
    GenerationRequest,
    Server,
    ServerError,
    Stopping,
    TextPrompt,
)
from jang_runtime.terminal import stream_events

LAUNCHING = run_path(str(Path(__file__).with_name("launching.py")))
converted, launch_command = LAUNCHING["converted"], LAUNCHING["launch_command"]
free_ports = LAUNCHING["free_ports"]
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(
    not mx.distributed.is_available("ring"), reason="this MLX has no ring backend"
)


class Rank:
    """A process of a server over two ranks, started by hand, with what it writes."""

    def __init__(self, number: int, hosts: Path, directory: Path, *options: str) -> None:
        environment = os.environ | {
            "MLX_RANK": str(number),
            "MLX_HOSTFILE": str(hosts),
            # Two ranks share one machine.
            "JANG_THREADS": "1",
        }
        command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(directory)]
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def address(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), self.process.communicate(timeout=20)
        return line.split()[2]

    def end(self) -> tuple[int, str]:
        """Exit status and what it wrote to stderr."""
        _, text = self.process.communicate(timeout=60)
        return self.process.returncode, text


@contextmanager
def two_ranks(folder: Path, directory: Path, *options: str) -> Iterator[tuple[Rank, Rank]]:
    port = free_ports()
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"], [f"127.0.0.1:{port + 1}"]]))
    ranks = tuple(Rank(number, hosts, directory, *options) for number in (0, 1))
    try:
        yield ranks[0], ranks[1]
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.communicate()


REQUESTS = [
    (f"Question {number % 3}, with a beginning that others have too", number, 0.9 * (number % 2))
    for number in range(8)
]


def answer(client: Client, text: str, seed: int, temperature: float) -> list[int]:
    sampling = pb.Sampling(seed=seed, temperature=temperature)
    stopping = pb.Stopping(max_tokens=12 + seed, ignore_eos=True)
    return list(client.generate(text, sampling=sampling, stopping=stopping).token_ids)


def answers(address: str) -> list[list[int]]:
    """All at once, while somebody else's is cancelled."""
    with Client(address, timeout=60) as client, ThreadPoolExecutor(len(REQUESTS)) as pool:
        stream = client.stream("Something else", stopping=pb.Stopping(max_tokens=400))
        next(stream)
        found = [pool.submit(answer, client, *request) for request in REQUESTS]
        next(stream)
        stream.close()
        return [each.result() for each in found]


def scored(client: Client) -> list[float]:
    """Log-probabilities, and a logit of each row in several messages."""
    scores = client.score("Some context", ["one way", "and another, which is longer"])
    rows = [row for part in client.logits(list(range(5, 300))) for row in part.values[:, 7]]
    return [*(score.logprob for score in scores), *map(float, rows)]


@pytest.mark.parametrize(("name", "kind"), [("qwen3", "TENSOR"), ("qwen3_next", "PIPELINE")])
def test_a_server_over_two_ranks_gives_the_tokens_of_one_process(
    name: str, kind: str, tmp_path: Path, serving: Callable[..., AbstractContextManager[Server]]
) -> None:
    directory = converted(name, tmp_path)
    with Engine(directory) as engine, serving(engine) as server:
        expected = answers(server.address)
        with Client(server.address) as client:
            expected_scores = scored(client)
    with two_ranks(tmp_path, directory, "--max-active", "4") as (first, second):
        address = first.address()
        # The second time with what the prefix cache has.
        assert answers(address) == expected
        assert answers(address) == expected
        with Client(address) as client:
            limited = pb.Stopping(max_tokens=400, ignore_eos=True, time_limit_seconds=0.02)
            reason = client.generate("Go on", stopping=limited).finished.finish_reason
            assert reason == pb.FINISH_REASON_DEADLINE
            # All ranks have ended it in the same step, or they would have come apart.
            assert scored(client) == pytest.approx(expected_scores, rel=TOLERANCE, abs=TOLERANCE)
            info = client.server_info()
            assert info.ranks == 2
            assert info.sharding == pb.Sharding.Value(f"SHARDING_{kind}")
            stream = client.stream("Go on", stopping=pb.Stopping(max_tokens=40, ignore_eos=True))
            next(stream)
            # As a launcher does, and systemd.
            for rank in (first, second):
                rank.process.terminate()
            *_, last = stream
        assert last.finished.usage.completion_tokens == 40
        assert [rank.end()[0] for rank in (first, second)] == [0, 0]


# Seconds after a token: where the other rank's end comes in a step decides who notices it.
@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05])
def test_the_death_of_a_rank_ends_the_server_in_a_line(moment: float, tmp_path: Path) -> None:
    with two_ranks(tmp_path, converted("qwen3", tmp_path)) as (first, second):
        with Client(first.address(), timeout=60) as client:
            stream = client.stream("Go on", stopping=pb.Stopping(max_tokens=400, ignore_eos=True))
            next(stream)
            time.sleep(moment)
            second.process.kill()
            with pytest.raises(ServerError, match="UNAVAILABLE"):
                list(stream)
            while client.health() == "SERVING":
                time.sleep(0.05)
            assert client.health() == "NOT_SERVING"
        status, text = first.end()
        assert status == 1
        assert "the engine has stopped: rank 0 of 2" in text
        assert re.search("connection to a peer was lost|its connection has closed", text)
        assert "Traceback" not in text


def test_ranks_end_when_rank_0_is_lost(tmp_path: Path) -> None:
    with two_ranks(tmp_path, converted("qwen3", tmp_path)) as (first, second):
        first.address()
        first.process.kill()
        status, text = second.end()
        assert status == 1
        assert "the engine has stopped: rank 1 of 2 has lost another one" in text
        assert "Traceback" not in text


def test_a_launched_server_gives_the_text_of_one_process(tmp_path: Path) -> None:
    directory = converted("qwen3", tmp_path)
    stopping = Stopping(max_tokens=24, ignore_eos=True)
    with Engine(directory) as engine:
        asked = GenerationRequest(TextPrompt("What is 2+2?"), stopping=stopping)
        events = [event for event in stream_events(engine, asked) if isinstance(event, Delta)]
    command = ["-m", "jang_runtime.cli", "serve", str(directory), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        launch_command(sys.executable, *command),
        env=os.environ | {"JANG_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # The launcher leaves its processes behind when it is killed.
        start_new_session=True,
    ) as launcher:
        try:
            assert launcher.stdout is not None
            line = launcher.stdout.readline()
            assert line.startswith("listening on ")
            with Client(line.split()[2], timeout=60) as client:
                limits = pb.Stopping(max_tokens=24, ignore_eos=True)
                answered = client.generate("What is 2+2?", stopping=limits)
                assert client.server_info().ranks == 2
        finally:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert answered.text == "".join(event.text for event in events)


def test_a_launched_server_that_cannot_split_its_model_says_so_once(tmp_path: Path) -> None:
    command = ["jang_runtime.cli", "serve", str(converted("mixtral", tmp_path))]
    launched = launch_command(sys.executable, "-m", *command, "--listen", "127.0.0.1:0")
    ran = subprocess.run(launched, capture_output=True, text=True, timeout=120)
    assert ran.stderr.count("the model cannot be split over 2 ranks") == 1
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_ranks_with_different_models_do_not_start(tmp_path: Path) -> None:
    directories = [converted("qwen3", tmp_path), converted("llama", tmp_path)]
    port = free_ports()
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"], [f"127.0.0.1:{port + 1}"]]))
    ranks = [Rank(number, hosts, directory) for number, directory in enumerate(directories)]
    (status, text), (other_status, other_text) = (rank.end() for rank in ranks)
    assert (status, other_status) == (2, 2)
    assert "rank 1: model: found" in text
    assert "as on rank 0" in text
    assert "error" not in other_text
