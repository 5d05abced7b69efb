"""Bits per weight is one number, whoever states it: a plan, a manifest, `inspect`, `convert`."""

import json
from pathlib import Path
from runpy import run_path

import pytest
from typer.testing import CliRunner

from jang_format import LAYOUTS, LayoutName, convert_layout, read_directory, summarize
from jang_quant import Request, convert, find_profile, open_source, plan_source, prepare
from jang_quant.cli import app

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))

# Each with a convolution, which is no module that MLX could quantize.
WITH_CONVOLUTIONS = ["mamba", "qwen3_next", "falcon_h1"]


@pytest.fixture(scope="module", params=WITH_CONVOLUTIONS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return HELPERS["write_checkpoint"](folder / "source", request.param)


def stated(directory: Path) -> float:
    return read_directory(directory).manifest["quantization"]["bits_per_weight"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plan_manifest_inspect_and_a_written_anew_directory_agree(
    layout: LayoutName, checkpoint: Path, tmp_path: Path
) -> None:
    source = open_source(str(checkpoint))
    plan = plan_source(source, find_profile("4M"), layout=layout)
    assert any(len(other.shape) >= 2 for other in plan.others.values())
    convert(source, tmp_path / "out", plan)
    written = read_directory(tmp_path / "out")
    assert stated(tmp_path / "out") == plan.bits_per_weight
    assert summarize(written).bits_per_weight == plan.bits_per_weight
    convert_layout(written, tmp_path / "anew", LAYOUTS[layout])
    assert stated(tmp_path / "anew") == plan.bits_per_weight


def test_bits_that_are_asked_for_are_those_that_inspect_finds(checkpoint: Path) -> None:
    plan = prepare(open_source(str(checkpoint)), Request(bits=6.5)).plan
    by_hand = [*plan.modules, *(o for o in plan.others.values() if len(o.shape) >= 2)]
    found = 8 * sum(each.nbytes for each in by_hand) / sum(each.parameters for each in by_hand)
    assert plan.bits_per_weight == found
    assert 6.5 * 0.95 <= found <= 6.5


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_a_k_profile_takes_the_bytes_of_its_bits_whatever_else_the_model_has(
    bits: int, checkpoint: Path
) -> None:
    """Convolutions and routers have 16 bits with any profile, and take none from the others."""
    source = open_source(str(checkpoint))
    budget = prepare(source, Request(profile=f"JANG_{bits}K")).plan
    uniform = plan_source(source, find_profile(f"UNIFORM_{bits}"))
    assert uniform.tensor_bytes * 0.95 <= budget.tensor_bytes <= uniform.tensor_bytes


def test_the_plan_as_json_states_the_same_number(checkpoint: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(checkpoint), "--bits", "6.5", "--json"])
    document = json.loads(result.stdout)
    plan = prepare(open_source(str(checkpoint)), Request(bits=6.5)).plan
    assert document["bits_per_weight"] == plan.bits_per_weight
