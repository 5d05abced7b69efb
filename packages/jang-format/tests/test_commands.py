"""The commands of `jang-format`, as users type them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from jang_format import read_directory, summarize
from jang_format._summary import summary_of
from jang_format.cli import app


def test_inspect_counts_what_the_conversion_planned(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(tiny_model), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    manifest = json.loads((tiny_model / "jang_config.json").read_text())
    assert document["profile"] == "JANG_4M"
    assert document["bits_per_weight"] == manifest["quantization"]["bits_per_weight"]
    assert document["parameters"] == manifest["source_model"]["parameters"]
    assert {(row["role"], row["bits"]) for row in document["rows"]} == {
        ("attention", 6),
        ("embedding", 4),
        ("head", 6),
        ("mlp", 4),
        ("unquantized", None),
    }
    table = CliRunner().invoke(app, ["inspect", str(tiny_model)])
    assert table.exit_code == 0
    assert "attention" in table.stdout


def test_the_plan_has_a_digest_that_widths_change_and_the_layout_does_not(
    tiny_model: Path, tmp_path: Path
) -> None:
    def inspected(directory: Path) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["inspect", str(directory), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    # As another program would have written it.
    for name in ("jang_config.json", "jang_digests.json"):
        (bare / name).unlink()
    first = inspected(tiny_model)
    plan = sorted(
        [each["path"], each["shape"], each["bits"], each["widths"], each["group_size"]]
        for each in first["modules"]
    )
    assert first["plan_digest"] == hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    assert inspected(bare)["plan_digest"] == first["plan_digest"]
    blocks = tmp_path / "blocks"
    arguments = ["convert", str(tiny_model), str(blocks), "--layout", "blocks"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert inspected(blocks)["plan_digest"] == first["plan_digest"]
    summary = summarize(read_directory(tiny_model))
    head, *rest = summary.modules
    for modules, same in (((*rest, head), True), ((*rest, replace(head, widths=(8,))), False)):
        other = summary_of(modules, layout="", architecture="", profile="", weight_bytes=0)
        assert (other.plan_digest == summary.plan_digest) is same


def test_a_directory_that_is_none_ends_with_one_line_and_status_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    message = "directory: found nothing, expected a directory"
    assert result.stderr == f"error: {tmp_path / 'nothing'}: {message}\n"


def test_names_from_a_strangers_file_reach_the_terminal_as_plain_text(
    tmp_path: Path, tiny_model: Path
) -> None:
    out = tmp_path / "model"
    shutil.copytree(tiny_model, out)
    manifest = json.loads((out / "jang_config.json").read_text())
    manifest["roles"]["lm_head"] = "[/x]\x1b[31m"
    manifest["roles"]["model.embed_tokens"] = "[bold]loud"
    (out / "jang_config.json").write_text(json.dumps(manifest))
    result = CliRunner().invoke(app, ["inspect", str(out)])
    assert result.exit_code == 0, result.output
    assert "[bold]loud" in result.stdout
    assert r"\x1b" in result.stdout
    assert "\x1b" not in result.stdout


def test_each_command_has_an_example_and_takes_json(tmp_path: Path, tiny_model: Path) -> None:
    out = str(tmp_path / "blocks")
    calls = {
        "inspect": [str(tiny_model)],
        "validate": [str(tiny_model)],
        "convert": [str(tiny_model), out, "--layout", "blocks", "--requantize"],
        "diff": [str(tiny_model), out],
    }
    for command, arguments in calls.items():
        assert (
            f"Example: jang-format {command}" in CliRunner().invoke(app, [command, "--help"]).output
        )
        result = CliRunner().invoke(app, [command, *arguments, "--json"])
        assert result.exit_code == (1 if command == "diff" else 0), result.output
        assert json.loads(result.stdout)


def test_the_heat_map_is_written_beside_the_numbers(tmp_path: Path, tiny_model: Path) -> None:
    picture = tmp_path / "bits.png"
    result = CliRunner().invoke(app, ["inspect", str(tiny_model), "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused = CliRunner().invoke(app, ["inspect", str(tiny_model), "--plot", "bits.jpeg"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)


def test_the_difference_is_said_for_people(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "blocks"
    arguments = ["convert", str(tiny_model), str(out), "--layout", "blocks", "--requantize"]
    CliRunner().invoke(app, arguments)
    result = CliRunner().invoke(app, ["diff", str(tiny_model), str(out)])
    assert result.exit_code == 1
    assert "layout: 'mlx' -> 'blocks'" in result.stdout
    assert "common modules differ" in result.stdout
    same = CliRunner().invoke(app, ["diff", str(tiny_model), str(tiny_model)])
    assert (same.exit_code, same.stdout.split(":")[0]) == (0, "the same")
