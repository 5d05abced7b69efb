"""Budgets and methods, as users ask for them."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

from jang_format import read_directory, summarize, validate
from jang_quant import Recipe, Request, convert, open_source, prepare
from jang_quant._sizes import parse_size
from jang_quant.cli import app


def small_text(method: str, **asked: object) -> Request:
    """A request whose calibration a tiny model gets done at once."""
    return Request(method=method, sequences=6, length=24, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2.8, 3.5, 4.6, 6.0])
def test_bits_are_met_from_below_within_half_a_percent(bits: float) -> None:
    prepared = prepare(open_source("smollm2"), Request(bits=bits))
    assert bits * 0.995 <= prepared.plan.bits_per_weight <= bits


def test_a_size_is_not_exceeded_by_a_byte_and_hardly_missed(tmp_path: Path) -> None:
    source = open_source("smollm2")
    prepared = prepare(source, Request(size="60MB"))
    written = convert(source, tmp_path / "out", prepared.plan).weight_bytes
    assert 60e6 * 0.995 <= written <= 60e6
    files = (tmp_path / "out").glob("*.safetensors")
    assert written == sum(file.stat().st_size for file in files)


def test_a_k_profile_has_at_most_the_bytes_of_its_bits_at_group_64() -> None:
    source = open_source("smollm2")
    for bits in (2, 3, 4, 6):
        uniform = prepare(source, Request(profile=f"UNIFORM_{bits}")).plan
        budget = prepare(source, Request(profile=f"jang_{bits}k")).plan
        assert budget.name == f"JANG_{bits}K"
        assert uniform.tensor_bytes * 0.995 <= budget.tensor_bytes <= uniform.tensor_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("38GB", 38e9), ("1.5 GiB", 1.5 * 2**30), ("60mb", 60e6), ("1000", 1000), (".5k", 500)],
)
def test_sizes_are_read_as_people_write_them(text: str, nbytes: float) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "6xB"], "size: found '6xB', expected one such as 38GB or 1.5GiB"),
        (["--bits", "3", "--profile", "JANG_4M"], "found more than one, expected one of them"),
        (["--bits", "1.5"], "budget: found"),
        (["--profile", "JANG_9Z"], "profile: found 'JANG_9Z'"),
        (["--calibration", "nowhere.txt"], "nowhere.txt: cannot be read (No such file"),
    ],
)
def test_what_cannot_be_met_is_one_line_and_status_2(
    options: list[str], message: str, tiny_source: Path
) -> None:
    result = CliRunner().invoke(app, ["plan", str(tiny_source), *options])
    assert result.exit_code == 2
    line = next(line for line in result.stderr.splitlines() if line.startswith("error:"))
    assert message in line


@pytest.mark.parametrize("method", ["mse", "gptq"])
def test_a_calibrated_conversion_says_what_it_was_calibrated_with(
    method: str, tiny_source: Path, tmp_path: Path
) -> None:
    source = open_source(str(tiny_source))
    prepared = prepare(source, small_text(method, bits=4.5), tmp_path)
    assert prepared.damage is not None
    assert prepared.damage > 0
    recipe = Recipe(method, prepared.calibration)  # type: ignore[arg-type]
    convert(source, tmp_path / "out", prepared.plan, recipe=recipe)
    assert validate(tmp_path / "out").problems == ()
    stated = read_directory(tmp_path / "out").manifest["quantization"]
    assert stated["method"] == method
    facts = stated["calibration"]
    assert (facts["text"], facts["sequences"], facts["length"], facts["seed"]) == ("self", 6, 24, 0)
    other = tmp_path / "other"
    other.mkdir()
    again = prepare(source, small_text(method, bits=4.5), other)
    assert again.calibration is not None
    assert prepared.calibration is not None
    np.testing.assert_array_equal(again.calibration.text.tokens, prepared.calibration.text.tokens)


def test_gptq_answers_more_like_the_source_than_rtn_in_the_same_bytes(
    tiny_source: Path, tmp_path: Path
) -> None:
    from mlx_lm.utils import load_model

    from jang_quant._calibration.run import _whole_model

    source = open_source(str(tiny_source))
    reference = _whole_model(source)
    prepared = prepare(source, small_text("gptq", profile="UNIFORM_3"), tmp_path)
    assert prepared.calibration is not None
    tokens = mx.array(prepared.calibration.text.tokens)
    expected = np.array(reference(tokens))
    errors: dict[str, float] = {}
    for recipe in (Recipe(), Recipe("gptq", prepared.calibration)):
        out = tmp_path / recipe.method
        convert(source, out, prepared.plan, recipe=recipe)
        model, _ = load_model(out)
        model.set_dtype(mx.float32)
        errors[recipe.method] = float(np.square(np.array(model(tokens)) - expected).mean())
    sizes = {summarize(read_directory(tmp_path / name)).weight_bytes for name in errors}
    assert len(sizes) == 1
    assert errors["gptq"] < 0.8 * errors["rtn"]


def test_the_plan_for_programs_has_the_damage_and_every_module(tiny_source: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(tiny_source), "--bits", "5", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["damage"] is None
    assert document["bits_per_weight"] <= 5
    assert len(document["modules"]) > 10


def test_the_published_table_gives_what_the_published_package_does() -> None:
    source = open_source("smollm2")
    ours = prepare(source, Request(profile="4M")).plan
    theirs = prepare(source, Request(profile="4M", profile_table="published")).plan
    assert (ours.name, theirs.name) == ("JANG_4M", "JANG_4M (published)")
    bits = {module.role: module.bits for module in theirs.modules}
    assert bits == {"mlp": 4, "attention": 8, "embedding": 8}
    listed = CliRunner().invoke(
        app, ["plan", "smollm2", "-p", "4M", "--profile-table", "published"]
    )
    assert "JANG_4M (published)" in listed.stdout
