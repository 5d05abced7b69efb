"""What a conversion says while it runs and when it has ended."""

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jang_format import dequantize, read_directory
from jang_quant import convert, find_profile, open_source, plan_source
from jang_quant._result import print_result
from jang_quant.cli import app


def test_json_makes_every_line_on_stderr_an_event_and_lists_the_modules(
    tiny_source: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is two and two? " * 30)
    options = ["--calibration", str(text), "--bits", "4.5", "--json"]
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["convert", str(tiny_source), out, *options])
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stderr.splitlines()]
    kinds = [event["event"] for event in events]
    stages = [event["stage"] for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(kinds)) == ["multiplying", "progress", "plan", "done"]
    assert list(dict.fromkeys(stages)) == ["calibrating", "converting"]
    last = [event for event in events if event["event"] == "progress"][-1]
    document = json.loads(result.stdout)
    assert last["done"] == last["total"] == document["tensor_bytes"]
    assert events[-1] == {"event": "done", "out": out, "seconds": document["seconds"]}
    planned = events[kinds.index("plan")]
    assert planned["damage"] == document["damage"]
    assert planned["bits_per_weight"] == document["bits_per_weight"]
    written = {module["path"]: module for module in document["modules"]}
    assert set(written) == set(read_directory(Path(out)).quantized_paths())
    assert all(0 < module["relative_error"] < 0.3 for module in written.values())


def test_with_json_a_mistake_is_an_event_too(tiny_source: Path, tmp_path: Path) -> None:
    for command in (["plan", "nonsense"], ["convert", "nonsense", str(tmp_path / "out")]):
        result = CliRunner().invoke(app, [*command, "--json"])
        assert (result.exit_code, result.stdout) == (2, "")
        (event,) = [json.loads(line) for line in result.stderr.splitlines()]
        assert event["event"] == "error"
        assert event["message"].startswith("SOURCE: found 'nonsense'")


@pytest.fixture
def said(tiny_source: Path, tmp_path: Path) -> Any:
    """A conversion with notes and one slow module, and what is printed of it."""
    source = open_source(str(tiny_source))
    conversion = convert(source, tmp_path / "out", plan_source(source, find_profile("3M")))
    modules = [replace(module, seconds=0.25) for module in conversion.modules]
    modules[3] = replace(modules[3], seconds=7.5, note="by mse: no calibration")
    conversion = replace(conversion, modules=tuple(modules), seconds=2.0)
    console = Console(file=StringIO(), width=120)
    print_result(conversion, console)
    assert isinstance(console.file, StringIO)
    return source, conversion, console.file.getvalue()


def row_of(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {first} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_error_of_a_role_is_that_of_the_values_in_the_files(said: Any, tmp_path: Path) -> None:
    source, conversion, text = said
    directory = read_directory(tmp_path / "out")
    paths = [module.path for module in conversion.modules if module.role == "attention"]
    parts: list[float] = []
    weights: list[int] = []
    for path in paths:
        values = source.tensors[f"{path}.weight"].read()
        off = dequantize(directory.quantized(path)) - values
        parts.append(float(np.square(off).sum() / np.square(values).sum()))
        weights.append(values.size)
    error = math.sqrt(np.average(parts, weights=weights))
    nbytes = sum(module.nbytes for module in conversion.modules if module.path in paths)
    assert row_of(text, "attention") == ["attention", "8", "6", f"{nbytes:,}", f"{error:.2%}"]


def test_the_end_names_speed_slow_modules_and_what_did_not_go_as_asked(said: Any) -> None:
    _, conversion, text = said
    speed = conversion.weight_bytes / 1e6 / 2.0
    assert text.splitlines()[0].endswith(f"bits per weight, 2.0 s, {speed:.1f} MB/s")
    slow = conversion.modules[3]
    assert row_of(text, slow.path)[1] == "7.50"
    assert text.count(" 0.25 ") == 4
    assert f"{slow.path}: by mse: no calibration" in text
