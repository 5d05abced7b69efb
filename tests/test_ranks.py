"""One model over two processes gives what one process gives, and says so where it cannot."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
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

from jang_runtime import ModelError
from jang_runtime._model import load
from jang_runtime._ranks.group import launched_rank
from jang_runtime._ranks.sharding import share_of
from jang_runtime.architecture import build_model

LAUNCHING = run_path(str(Path(__file__).with_name("launching.py")))
ARCHITECTURES: dict[str, dict[str, Any]] = LAUNCHING["ARCHITECTURES"]
converted, launch_command = LAUNCHING["converted"], LAUNCHING["launch_command"]
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
