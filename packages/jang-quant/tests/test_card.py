"""The model card: true, free of this machine, and enough to make the directory again."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jang_format import read_directory, validate
from jang_quant import Recipe, Request, Source, convert, find_profile, open_source, plan_source
from jang_quant import prepare as prepare_conversion
from jang_quant._command import command_of
from jang_quant.cli import app


def card_of(directory: Path) -> str:
    return (directory / "README.md").read_text()


def cells_of(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with this one."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.fixture
def source(tiny_source: Path) -> Source:
    return open_source(str(tiny_source))


def test_the_command_in_the_card_makes_the_same_directory_again(
    tiny_source: Path, tmp_path: Path
) -> None:
    options = ["--size", "250KB", "--method", "mse", "--calibration", "none", "-g", "32"]
    first, second = tmp_path / "first", tmp_path / "second"
    made = CliRunner().invoke(app, ["convert", str(tiny_source), str(first), *options])
    assert made.exit_code == 0, made.output
    assert validate(first).problems == ()
    (command,) = re.findall(r"^jang-quant (.*)$", card_of(first), re.MULTILINE)
    places = {tiny_source.name: str(tiny_source), "OUT": str(second)}
    arguments = [places.get(word, word) for word in shlex.split(command)]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert {file.name: file.read_bytes() for file in first.iterdir()} == {
        file.name: file.read_bytes() for file in second.iterdir()
    }


def test_the_card_says_what_the_files_hold(source: Source, tmp_path: Path) -> None:
    conversion = convert(source, tmp_path / "out", plan_source(source, find_profile("3M")))
    text = card_of(tmp_path / "out")
    stored = read_directory(tmp_path / "out")
    assert cells_of(text, "weight files") == [
        "weight files",
        f"{stored.weight_bytes / 1e6:,.1f} MB",
    ]
    assert cells_of(text, "bits per weight")[1].startswith(
        f"{stored.manifest['quantization']['bits_per_weight']:.3f} over all matrices; embeddings"
    )
    assert cells_of(text, "source weights")[1] == "BF16, not quantized"
    assert cells_of(text, "calibration")[1] == "none"
    assert "estimated divergence" not in text
    assert "Make it again" not in text
    mlp = [module for module in conversion.modules if module.role == "mlp"]
    nbytes = sum(module.nbytes for module in mlp)
    assert cells_of(text, "mlp") == [
        "mlp",
        "6",
        "3",
        "64",
        f"{nbytes / 1e6:,.2f}",
        f"{nbytes / conversion.plan.tensor_bytes:.1%}",
    ]


def test_calibration_is_named_with_what_it_takes_to_have_it_again(
    source: Source, tmp_path: Path
) -> None:
    request = Request(method="mse", bits=4.5, sequences=4, length=16)
    prepared = prepare_conversion(source, request, tmp_path)
    convert(source, tmp_path / "out", prepared.plan, recipe=Recipe("mse", prepared.calibration))
    digest = read_directory(tmp_path / "out").manifest["quantization"]["calibration"]["digest"]
    text = card_of(tmp_path / "out")
    assert cells_of(text, "calibration")[1] == (
        "the model's own text, 4 sequences of 16 tokens, seed 0, "
        f"digest of the tokens `{digest[:16]}`"
    )
    (bits,) = [cells_of(text, "mlp")[2]]
    assert re.fullmatch(r"[2-8]|[2-8] to [2-8], mean [2-8]\.\d\d", bits)


def test_no_path_of_this_machine_and_no_markup_of_a_name_reaches_the_card(
    source: Source, tmp_path: Path
) -> None:
    convert(
        replace(source, name="a|b`c\n# d<i>"),
        tmp_path / "out",
        plan_source(source, find_profile("4M")),
    )
    text = card_of(tmp_path / "out")
    assert str(tmp_path) not in text
    assert str(source.location) not in text
    assert not [line for line in text.splitlines() if line.startswith("# d")]
    assert cells_of(text, "source")[1] == "`a-b-c # d<i>`"
    command = command_of("model", Request(calibration="/home/someone/private.txt", bits=3.1))
    assert command == "jang-quant convert model OUT --bits 3.1 --calibration private.txt"


def test_a_hub_id_is_the_base_model_with_its_revision(source: Source, tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    location = tmp_path / "models--Someone--Model" / "snapshots" / revision
    hub = replace(source, name="Someone/Model", location=location)
    convert(hub, tmp_path / "hub", plan_source(source, find_profile("4M")))
    text = card_of(tmp_path / "hub")
    front = text.split("---\n")[1]
    assert f"base_model: {json.dumps(hub.name)}\nbase_model_relation: quantized\n" in front
    assert cells_of(text, "source")[1] == f"`Someone/Model`, revision `{revision}`"
    convert(source, tmp_path / "local", plan_source(source, find_profile("4M")))
    assert "base_model" not in card_of(tmp_path / "local")
