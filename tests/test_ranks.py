"""One model over two processes gives what one process gives, and says so where it cannot."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from runpy import run_path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from conftest import write_byte_tokenizer
from jang_format import BIT_WIDTHS
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_quant import convert, find_profile, open_source, plan_source
from jang_runtime import Client, Engine, ModelError, Server, ServerError
from jang_runtime._model import load
from jang_runtime._ranks.group import launched_rank
from jang_runtime._ranks.sharding import share_of
from jang_runtime.architecture import build_model

HELPERS = run_path(
    str(Path(__file__).parents[1] / "packages" / "jang-quant" / "tests" / "checkpoints.py")
)
ARCHITECTURES: dict[str, dict[str, Any]] = HELPERS["ARCHITECTURES"]
# Every row of the tiny models has an even number of such groups.
GROUP_SIZE = 32
PROMPT = (5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300)
NEXT = (44, 7, 256, 101)
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(
    not mx.distributed.is_available("ring"), reason="this MLX has no ring backend"
)

# Writes the logits of this rank and how many bytes of parameters it has, for each `kind=directory`.
PROGRAM = """
import json, sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from jang_runtime._errors import EngineStoppedError
from jang_runtime._model import load
from jang_runtime._ranks.group import LaunchedRanks
from jang_runtime._ranks.sharding import share_of

group = mx.distributed.init(strict=True)
out, prompt, following, *models = sys.argv[1:]
ranks = LaunchedRanks(group)
agreed = {
    "tokens": ranks.of_first(mx.array([7 + ranks.rank])).tolist(),
    "largest": ranks.largest([ranks.rank, -ranks.rank]),
}
long = bytes(range(256)) * 20
if ranks.rank:
    agreed["heard"] = ranks.hear(b"so far") == long
    try:
        ranks.hear(b"something else")
    except EngineStoppedError as error:
        agreed["apart"] = str(error)
else:
    ranks.tell(lambda: b"so far", lambda: long)
    try:
        ranks.tell(lambda: b"so far", lambda: b"")
    except EngineStoppedError as error:
        agreed["apart"] = str(error)
(Path(out) / f"agreed.{group.rank()}.json").write_text(json.dumps(agreed))
held = {}
for model in models:
    kind, directory = model.split("=", 1)
    shared = load(Path(directory), take=lambda make: share_of(make, group, kind).model).model
    held[model] = sum(array.nbytes for _, array in tree_flatten(shared.parameters()))
    cache = make_prompt_cache(shared)
    rows = [np.array(shared(mx.array([json.loads(prompt)]), cache=cache)[0])]
    for token in json.loads(following):
        rows.append(np.array(shared(mx.array([[token]]), cache=cache)[0]))
    name = model.replace("/", "_") + f".{group.rank()}.npy"
    np.save(Path(out) / name, np.concatenate(rows))
(Path(out) / f"held.{group.rank()}.json").write_text(json.dumps(held))
"""


@dataclass(frozen=True)
class Place:
    """What of a group decides a rank's share."""

    number: int
    count: int = 2

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return self.count


def free_ports() -> int:
    """The first of two ports in a row that nobody uses.

    Below those that systems give to whoever does not care: until they are used, no connection of
    another program takes them.
    """
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def launch_command(*command: str) -> list[str]:
    launcher = Path(sys.executable).with_name("mlx.launch")
    ports = ["--starting-port", str(free_ports())]
    return [str(launcher), "-n", "2", "--backend", "ring", *ports, "--", *command]


def converted(name: str, folder: Path) -> Path:
    """A tiny model of every width, each row in groups of 32."""
    checkpoint: Path = HELPERS["write_checkpoint"](folder / name, name)
    write_byte_tokenizer(checkpoint)
    source = open_source(str(checkpoint))
    plan = plan_source(source, find_profile("4M"))
    modules = tuple(
        module if module.bits is None else replace(module, bits=bits, group_size=GROUP_SIZE)
        for module, bits in zip(plan.modules, cycle(BIT_WIDTHS), strict=False)
    )
    convert(source, folder / f"{name}.jang", replace(plan, modules=modules))
    return folder / f"{name}.jang"


@pytest.fixture(scope="module")
def mixed_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny qwen2 in block layout, a width of its own for each block."""
    helpers = run_path(str(Path(__file__).with_name("test_blocks_run.py")))
    return helpers["with_mixed_blocks"]("qwen2", tmp_path_factory.mktemp("blocks"))[0]


def logits(model: Any) -> NDArray[np.float32]:
    cache = make_prompt_cache(model)
    rows = [np.array(model(mx.array([PROMPT]), cache=cache)[0])]
    rows += [np.array(model(mx.array([[token]]), cache=cache)[0]) for token in NEXT]
    return np.concatenate(rows)


def splits(name: str) -> tuple[str, ...]:
    """In which ways mlx-lm's class splits the tiny model of an architecture in two."""
    found: list[str] = []
    for kind in ("tensor", "pipeline"):
        try:
            share_of(lambda _: build_model(ARCHITECTURES[name]["config"]), Place(0), kind)
        except ModelError:
            continue
        found.append(kind)
    return tuple(found)


def test_two_processes_give_the_logits_of_one_for_every_architecture_that_can_be_split(
    mixed_blocks: Path, tmp_path: Path
) -> None:
    directories = {name: converted(name, tmp_path) for name in ARCHITECTURES if splits(name)}
    models = [f"{kind}={directories[name]}" for name in directories for kind in splits(name)]
    models.append(f"pipeline={mixed_blocks}")
    texts = [json.dumps(PROMPT), json.dumps(NEXT)]
    command = launch_command(sys.executable, "-c", PROGRAM, str(tmp_path), *texts, *models)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    whole = {
        str(directory): load(directory).model for directory in (*directories.values(), mixed_blocks)
    }
    expected = {directory: logits(model) for directory, model in whole.items()}
    for rank in (0, 1):
        agreed = json.loads((tmp_path / f"agreed.{rank}.json").read_text())
        assert (agreed["tokens"], agreed["largest"], agreed.get("heard", True)) == (
            [7],
            [1, 0],
            True,
        )
        assert "rank 1 has not decided what rank 0 has" in agreed["apart"]
        held: dict[str, int] = json.loads((tmp_path / f"held.{rank}.json").read_text())
        for model in models:
            directory = model.split("=", 1)[1]
            found = np.load(tmp_path / f"{model.replace('/', '_')}.{rank}.npy")
            largest = np.abs(expected[directory]).max()
            assert np.abs(found - expected[directory]).max() < TOLERANCE * largest, model
            # Embeddings and heads are on every rank.
            assert held[model] < 0.75 * all_bytes(whole[directory]), model


def test_a_process_that_is_launched_alone_is_no_rank(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("\n")
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    assert launched_rank() is None
    hosts.write_text('[["127.0.0.1:1"], ["127.0.0.1:2"]]')
    assert launched_rank() == 0


def test_the_page_says_how_each_architecture_can_be_split() -> None:
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
    rows = re.findall(r"^\| ([\w, ]+) \| (yes|no) \| (yes|no) \|$", page, re.MULTILINE)
    said = {
        name: tuple(
            kind for kind, mark in zip(("tensor", "pipeline"), marks, strict=True) if mark == "yes"
        )
        for names, *marks in rows
        for name in names.split(", ")
    }
    found = {ARCHITECTURES[name]["config"]["model_type"]: splits(name) for name in ARCHITECTURES}
    assert said == {name: kinds for name, kinds in found.items() if kinds}


def all_bytes(model: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def refusal(make: Callable[[Any], Any], wanted: str = "auto", ranks: int = 2) -> str:
    """Why a model cannot be split; every rank has to say the same."""
    texts: set[str] = set()
    for number in range(ranks):
        with pytest.raises(ModelError) as caught:
            share_of(make, Place(number, ranks), wanted)
        texts.add(str(caught.value))
    (text,) = texts
    return text


def tiny(name: str, **changes: object) -> Callable[[Any], Any]:
    return lambda _: build_model(ARCHITECTURES[name]["config"] | changes)


@pytest.mark.parametrize(
    ("make", "ranks", "reason"),
    [
        (tiny("mixtral"), 2, "tensor: mlx-lm's mixtral has no shard(); pipeline: mlx-lm's mixtral"),
        (
            tiny("llama", num_attention_heads=6, num_key_value_heads=3),
            2,
            "model.layers.0.self_attn.n_kv_heads: found 3, expected a multiple of 2",
        ),
        # The first matrix to be split whose sizes are no multiples of 5.
        (tiny("llama", num_attention_heads=5, num_key_value_heads=5), 5, "found 192 rows of 128"),
        (tiny("qwen3_next"), 3, "found 2 layers, expected one for each rank"),
    ],
)
def test_a_model_that_cannot_be_split_is_refused_with_the_reason(
    make: Callable[[Any], Any], ranks: int, reason: str
) -> None:
    text = refusal(make, ranks=ranks)
    assert reason in text
    assert text.startswith(f"the model cannot be split over {ranks} ranks; ")
    assert "\n" not in text


def test_groups_that_do_not_come_out_even_are_refused_by_name() -> None:
    model = tiny("qwen3")(None)
    cast(Any, nn).quantize(model, group_size=64, bits=4)
    assert "down_proj: found 128 rows of 3 groups of 64, expected multiples of 2" in refusal(
        lambda _: model, "tensor"
    )


def test_a_way_that_is_not_to_be_had_gives_way_to_the_other_only_if_none_was_asked_for() -> None:
    make = tiny("qwen2", num_attention_heads=6, num_key_value_heads=3, hidden_size=384)
    assert share_of(make, Place(1), "auto").kind == "pipeline"
    assert "pipeline" not in refusal(make, "tensor")


def test_blocks_of_several_widths_are_refused_in_parts_and_taken_in_layers(
    mixed_blocks: Path,
) -> None:
    kinds: list[str] = []

    def take(make: Callable[[Any], Any]) -> Any:
        share = share_of(make, Place(0), "auto")
        kinds.append(share.kind)
        return share.model

    load(mixed_blocks, take=take)
    assert kinds == ["pipeline"]
    with pytest.raises(ModelError, match=r"found blocks of several widths, .*--layout mlx"):
        load(mixed_blocks, take=lambda make: share_of(make, Place(0), "tensor").model)


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
