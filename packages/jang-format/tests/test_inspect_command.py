"""The command `jang-format inspect`, as users type it."""

import json
from pathlib import Path

from typer.testing import CliRunner

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


def test_a_directory_that_is_none_ends_with_one_line_and_status_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    message = "directory: found nothing, expected a directory"
    assert result.stderr == f"error: {tmp_path / 'nothing'}: {message}\n"
