"""`jang-eval perplexity` against a server, and by numpy from the model's logits."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from typer.testing import CliRunner

from conftest import PlainModel, convert_to, write_tiny_source
from jang_eval.cli import app
from jang_runtime import Engine, Server

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 3


@pytest.fixture(scope="module")
def marking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer puts <s> before a text and </s> behind it."""
    source = write_tiny_source(tmp_path_factory.mktemp("marking") / "source")
    path = str(source / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save(path)
    return convert_to(source, source.parent / "JANG_4M", "JANG_4M")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


Serving = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def measure(serving: Serving, texts: Path) -> Callable[..., dict[str, Any]]:
    def run(model: Path, *options: str) -> dict[str, Any]:
        with Engine(model) as engine, serving(engine) as server:
            given = ["--target", server.address, "--data", str(texts), "--json", *options]
            result = CliRunner().invoke(app, ["perplexity", *given])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def values(result: dict[str, Any]) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in result["metrics"]}


def test_strided_windows_give_each_token_once_what_numpy_finds(
    measure: Callable[..., dict[str, Any]], tiny_model: Path
) -> None:
    result = measure(tiny_model, "--window", "64", "--stride", "16")
    model = PlainModel(tiny_model)
    tokens = model.tokenizer.encode(TEXT, add_special_tokens=False)
    losses: list[float] = []
    for place in range(1, len(tokens)):
        # Windows begin at multiples of 16; the first that reaches a token counts it.
        begin = max(0, -(-(place - 63) // 16) * 16)
        before = model.log_probabilities(tokens[begin:place])
        losses.append(-before[-1, tokens[place]])
    expected = float(np.exp(np.mean(losses)))
    found = values(result)
    assert found["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert found["bits per byte"] == pytest.approx(np.mean(losses) / np.log(2), rel=1e-5)
    # Tokens are bytes here.
    words = len(TEXT.split()) + 1
    assert found["word perplexity"] == pytest.approx(
        np.exp(np.mean(losses) * len(TEXT) / words), rel=1e-4
    )
    assert result["metrics"][0]["count"] == len(TEXT) - 1
    low, high = result["metrics"][0]["interval"].values()
    assert low < found["perplexity"] < high


def test_second_halves_behind_the_mark_are_what_llama_cpp_counts(
    measure: Callable[..., dict[str, Any]], marking_model: Path
) -> None:
    result = measure(marking_model, "--convention", "llama.cpp", "--window", "32")
    model = PlainModel(marking_model)
    ids = model.tokenizer.encode(TEXT, add_special_tokens=False)
    stream = [0, *ids]
    losses: list[float] = []
    for begin in range(0, len(stream) - 31, 32):
        window = [0, *stream[begin + 1 : begin + 32]]
        rows = model.log_probabilities(window)
        losses += [-rows[place, window[place + 1]] for place in range(16, 31)]
    assert values(result)["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert result["metrics"][0]["count"] == len(losses) == 15 * (len(stream) // 32)


def test_some_windows_are_spread_over_the_text(
    measure: Callable[..., dict[str, Any]], tiny_model: Path
) -> None:
    result = measure(tiny_model, "--window", "32", "--stride", "32", "--windows", "3")
    assert [each["id"] for each in result["outcomes"]] == [
        "text.txt:0",
        f"text.txt:{len(TEXT) // 3}",
        f"text.txt:{len(TEXT) // 3 * 2}",
    ]
    assert result["settings"]["windows"] == "3"


def test_mistakes_are_one_line(served: str, texts: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    for options, line in [
        (["--window", "1000"], "window: found 1000 tokens, expected at most 512"),
        (["--window", "8", "--stride", "9"], "stride: found 9, expected 1 to 8"),
        (["--window", "0"], "window: found 0, expected at least 4 tokens"),
        (["--window", "8", "--stride", "0"], "stride: found 0, expected 1 to 8"),
        (["--windows", "0", "--window", "8"], "windows: found 0, expected at least 1"),
        (["--convention", "llama.cpp"], "text.txt: found 222 tokens, expected at least a window"),
        (["--window", "32", "--data", str(tmp_path / "x")], "x: cannot be read: No such file"),
        (["--window", "32", "--data", str(empty)], "empty.txt: found no text, expected some"),
    ]:
        given = ["--target", served, "--data", str(texts), *options]
        result = CliRunner().invoke(app, ["perplexity", *given])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert line in result.stderr
        assert result.stderr.count("\n") == 1
