"""`jang-eval kl` and `reference` against servers, and by numpy from the models' logits."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from conftest import PlainModel, convert_to
from jang_eval.cli import app
from jang_runtime import Engine, Server

TEXT = (
    "Call me Ishmael. Some years ago - never mind how long precisely - having little money.\n" * 3
)
WINDOW = 64
CUT = ["--window", str(WINDOW)]


@dataclass(frozen=True)
class Pair:
    """Two servers, and their models' directories."""

    reference: str
    coarse: str
    reference_model: Path
    coarse_model: Path


@pytest.fixture(scope="module")
def pair(
    serving: Callable[..., AbstractContextManager[Server]],
    tiny_source: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    coarse = convert_to(tiny_source, tmp_path_factory.mktemp("coarse") / "JANG_2S", "JANG_2S")
    with (
        Engine(tiny_model) as first,
        Engine(coarse) as second,
        serving(first) as reference,
        serving(second) as target,
    ):
        yield Pair(reference.address, target.address, tiny_model, coarse)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def run(command: str, target: str, text: Path, *options: str) -> Result:
    return CliRunner().invoke(app, [command, "--target", target, "--data", str(text), *options])


def kl(target: str, reference: str, text: Path, *options: str) -> dict[str, Any]:
    result = run("kl", target, text, "--reference", reference, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def values(result: dict[str, Any]) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in result["metrics"]}


def stored(target: str, text: Path, keep: str, out: Path) -> Path:
    result = run("reference", target, text, "--keep", keep, "-o", str(out), *CUT)
    assert result.exit_code == 0, result.stderr
    return out


def by_numpy(pair: Pair) -> tuple[Any, Any, Any]:
    """Log-probabilities of both at all positions that count, and the tokens that follow."""
    models = PlainModel(pair.reference_model), PlainModel(pair.coarse_model)
    ids = models[0].tokenizer.encode(TEXT, add_special_tokens=False)
    windows = [ids[n : n + WINDOW] for n in range(0, len(ids), WINDOW)]
    rows = [np.concatenate([m.log_probabilities(w)[:-1] for w in windows]) for m in models]
    return rows[0], rows[1], np.array([token for w in windows for token in w[1:]])


def test_a_server_differs_from_itself_by_nothing(pair: Pair, text: Path) -> None:
    result = kl(pair.reference, pair.reference, text, *CUT)
    found = values(result)
    # Exactly: the same bytes come over the wire.
    assert {value for name, value in found.items() if name.startswith("KL")} == {0.0}
    assert found["top-1 agreement"] == found["top-5 agreement"] == found["perplexity ratio"] == 1.0
    assert found["RMS change of probability"] == 0.0
    # Of a few windows nothing follows for all others.
    agreement = next(each for each in result["metrics"] if each["name"] == "top-1 agreement")
    assert agreement["interval"]["low"] < 0.99 < agreement["interval"]["high"] == 1.0


def test_every_number_is_what_numpy_finds(pair: Pair, text: Path) -> None:
    result = kl(pair.coarse, pair.reference, text, *CUT)
    found, expected = values(result), {}
    p, q, following = by_numpy(pair)
    each = (np.exp(p) * (p - q)).sum(axis=-1)
    own = [rows[np.arange(len(following)), following] for rows in (p, q)]
    expected["KL"] = each.mean()
    for name, share in {"median": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}.items():
        expected[f"KL/{name}"] = np.quantile(each, share, method="inverted_cdf")
    expected["KL/max"] = each.max()
    expected["top-1 agreement"] = (p.argmax(-1) == q.argmax(-1)).mean()
    right = [rows.argmax(-1) == following for rows in (p, q)]
    expected["top-1 changed"] = 1 - expected["top-1 agreement"]
    expected["top-1 right to wrong"] = (right[0] & ~right[1]).mean()
    expected["top-1 wrong to right"] = (~right[0] & right[1]).mean()
    tops = [np.argsort(-rows, axis=-1)[:, :5] for rows in (p, q)]
    expected["top-5 agreement"] = np.mean(
        [len({*a.tolist()} & {*b.tolist()}) / 5 for a, b in zip(*tops, strict=True)]
    )
    change = np.exp(own[1]) - np.exp(own[0])
    expected["RMS change of probability"] = np.sqrt((change**2).mean())
    expected["mean change of probability"] = change.mean()
    expected["perplexity"] = np.exp(-own[1].mean())
    expected["reference perplexity"] = np.exp(-own[0].mean())
    expected["perplexity ratio"] = np.exp((own[0] - own[1]).mean())
    sure = np.exp(p.max(-1)) < 0.25
    expected["KL/confidence 0-0.25"] = each[sure].mean()
    expected["top-1 agreement/confidence 0-0.25"] = (p.argmax(-1) == q.argmax(-1))[sure].mean()
    assert found["KL"] > 0.001
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-5, abs=1e-9), name
    interval = result["metrics"][0]["interval"]
    assert interval["low"] < found["KL"] < interval["high"]
    assert result["metrics"][0]["count"] == len(following)


def test_a_file_of_all_logits_is_as_far_off_as_it_says(
    pair: Pair, text: Path, tmp_path: Path
) -> None:
    path = stored(pair.reference, text, "f16", tmp_path / "r")
    direct = values(kl(pair.coarse, pair.reference, text, *CUT))
    result = kl(pair.coarse, str(path), text)
    assert values(result)["KL"] == pytest.approx(direct["KL"], rel=1e-3)
    assert values(result)["reference perplexity"] == pytest.approx(
        direct["reference perplexity"], rel=1e-7
    )
    # Of the reference itself what is left is what storing has changed.
    floor = values(kl(pair.reference, str(path), text))["KL"]
    said = float(result["settings"]["reference loss"].split()[2].rstrip(","))
    assert 0 < floor < 1e-5
    assert floor == pytest.approx(said, rel=0.05)


def test_a_file_of_the_most_likely_tokens_is_below_by_no_more_than_the_rest(
    pair: Pair, text: Path, tmp_path: Path
) -> None:
    path = stored(pair.reference, text, "top-k:32", tmp_path / "r")
    assert path.stat().st_size < 260 * 500
    found = values(kl(pair.coarse, str(path), text))
    p, q, _ = by_numpy(pair)
    kept = np.argsort(-p, axis=-1)[:, :32]
    a, b = (np.take_along_axis(rows, kept, axis=-1) for rows in (p, q))
    rest = [np.log1p(-np.exp(rows).sum(-1)) for rows in (a, b)]
    expected = (np.exp(a) * (a - b)).sum(-1) + np.exp(rest[0]) * (rest[0] - rest[1])
    assert found["KL"] == pytest.approx(expected.mean(), rel=1e-5)
    direct = values(kl(pair.coarse, pair.reference, text, *CUT))
    assert found["KL"] < direct["KL"]
    for name in (
        "top-1 agreement",
        "top-1 right to wrong",
        "top-1 wrong to right",
        "top-5 agreement",
        "reference perplexity",
    ):
        assert found[name] == pytest.approx(direct[name], rel=1e-6)
    assert abs(values(kl(pair.reference, str(path), text))["KL"]) < 1e-14


@pytest.mark.parametrize("option", ["window", "stride"])
def test_a_window_or_stride_of_nothing_is_not_the_default(
    pair: Pair, text: Path, tmp_path: Path, option: str
) -> None:
    path = stored(pair.reference, text, "f16", tmp_path / "r")
    for reference in (pair.reference, str(path)):
        result = run("kl", pair.coarse, text, "--reference", reference, f"--{option}", "0")
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {option}: found 0, expected ")


def test_an_interrupted_file_is_gone_on_with(pair: Pair, text: Path, tmp_path: Path) -> None:
    whole = stored(pair.reference, text, "f16", tmp_path / "whole").read_bytes()
    partial = tmp_path / ".again.partial"
    partial.write_bytes(whole[: len(whole) // 2])
    before = run("kl", pair.coarse, text, "--reference", str(partial))
    assert "expected" in before.stderr
    assert before.exit_code == 2
    assert stored(pair.reference, text, "f16", tmp_path / "again").read_bytes() == whole
    assert not partial.exists()
    partial.write_bytes(whole[: len(whole) // 2])
    options = ["--keep", "top-k:9", "-o", str(tmp_path / "again"), *CUT]
    other = run("reference", pair.reference, text, *options)
    assert other.exit_code == 2
    assert "found the beginning of another reference" in other.stderr


def test_the_size_is_known_before(pair: Pair, text: Path, tmp_path: Path) -> None:
    options = ["--keep", "f16", "--max-size", "0.0001", "-o", str(tmp_path / "r"), *CUT]
    result = run("reference", pair.reference, text, *options)
    assert result.exit_code == 2
    assert "found 0.2 MB to store, expected at most 0.1 MB" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_logits_differ_by_what_numpy_finds(pair: Pair, tmp_path: Path) -> None:
    prompts = ["What is 2+2?", "The capital of France is"]
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(prompts) + "\n")
    result = run("logit-mse", pair.coarse, path, "--reference", pair.reference, "--json")
    assert result.exit_code == 0, result.stderr
    models = PlainModel(pair.reference_model), PlainModel(pair.coarse_model)
    squares, cosines, last = [], [], []
    for prompt in prompts:
        ids = models[0].tokenizer.encode(prompt)
        a, b = (rows - rows.mean(-1, keepdims=True) for rows in (m.logits(ids) for m in models))
        squares += [*((a - b) ** 2).mean(-1)]
        last.append(squares[-1])
        cosines += [*(np.sum(a * b, -1) / np.sqrt(np.sum(a**2, -1) * np.sum(b**2, -1)))]
    found = values(json.loads(result.stdout))
    assert found["logit MSE"] == pytest.approx(np.mean(squares), rel=1e-5)
    assert found["cosine"] == pytest.approx(np.mean(cosines), rel=1e-5)
    assert found["logit MSE/last token"] == pytest.approx(np.mean(last), rel=1e-5)
    assert found["logit MSE"] > 0
    same = run("logit-mse", pair.reference, path, "--reference", pair.reference, "--json")
    assert values(json.loads(same.stdout))["logit MSE"] == 0.0


def test_prompts_against_a_file_give_what_they_give_against_its_server(
    pair: Pair, text: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("What is 2+2?\n\nThe capital of France is\n")
    file = tmp_path / "prompts.bin"

    def store(*options: str) -> Result:
        arguments = ["--target", pair.reference, "--prompts", str(path), "-o", str(file), *options]
        return CliRunner().invoke(app, ["reference", *arguments])

    def mse(target: str, reference: str | Path, prompts: Path = path) -> Result:
        return run("logit-mse", target, prompts, "--reference", str(reference), "--json")

    assert store().exit_code == 0
    direct = values(json.loads(mse(pair.coarse, pair.reference).stdout))
    result = json.loads(mse(pair.coarse, file).stdout)
    for name, value in values(result).items():
        assert value == pytest.approx(direct[name], rel=1e-3), name
    assert result["settings"]["reference kept"] == "f16"
    # Of the reference itself what is left is what storing has changed.
    floor = values(json.loads(mse(pair.reference, file).stdout))["logit MSE"]
    assert 0 < floor < 1e-4 * direct["logit MSE"]

    whole = file.read_bytes()
    file.rename(tmp_path / ".prompts.bin.partial")
    (tmp_path / ".prompts.bin.partial").write_bytes(whole[:-5])
    assert store().exit_code == 0
    assert file.read_bytes() == whole

    other = tmp_path / "other.txt"
    other.write_text("What is 2+3?\nThe capital of France is\n")
    texts = stored(pair.reference, text, "f16", tmp_path / "texts.bin")
    refused = {
        "found other tokens than the reference has": mse(pair.coarse, file, other),
        "expected one that `reference --prompts` wrote": mse(pair.coarse, texts),
        "expected one that `reference --data` wrote": run(
            "kl", pair.coarse, text, "--reference", str(file)
        ),
        "expected f16 for prompts": store("--keep", "top-k:9"),
        "expected either --data or --prompts": store("--data", str(text)),
    }
    for line, found in refused.items():
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1), line
        assert line in found.stderr


def test_damaged_and_hostile_files_are_one_line(pair: Pair, text: Path, tmp_path: Path) -> None:
    whole = stored(pair.reference, text, "top-k:8", tmp_path / "whole").read_bytes()
    (length,) = struct.unpack("<Q", whole[8:16])
    begin = 16 + length
    header = json.loads(whole[16:begin])

    def with_header(**changes: Any) -> bytes:
        changed = json.dumps(header | changes).encode()
        return whole[:8] + struct.pack("<Q", len(changed)) + changed + whole[begin:]

    def with_numbers(at: int, form: str, value: float) -> bytes:
        # A checksum that fits says nothing of who wrote it.
        count = header["windows"][0]["scored"]
        size = count * (8 + 12 * 8 + 8) + 28
        data = bytearray(whole[begin : begin + size - 4])
        struct.pack_into(form, data, at, value)
        return whole[:begin] + data + struct.pack("<I", zlib.crc32(data)) + whole[begin + size :]

    count = header["windows"][0]["scored"]
    bad = {
        "empty": b"",
        "no header": whole[:12],
        "cut": whole[:-1],
        "longer": whole + b"x",
        "length": whole[:8] + b"\xff" * 8 + whole[16:],
        "nested": whole[:8] + struct.pack("<Q", 50000) + b"[" * 50000,
        "other": b"safetens" + whole[8:],
        "keep": with_header(keep="top-k:99999"),
        "keep nothing": with_header(keep="all"),
        "windows": with_header(windows=[]),
        "many windows": with_header(windows=header["windows"] * 2),
        "scored": with_header(windows=[{"id": "text.txt:0", "scored": -5}]),
        "windowing": with_header(windowing=header["windowing"] | {"stride": 0}),
        "byte": whole[: begin + 700] + bytes([whole[begin + 700] ^ 1]) + whole[begin + 701 :],
        "not a number": with_numbers(0, "<d", float("nan")),
        "above one": with_numbers(8, "<d", 3.0),
        "id": with_numbers(8 * count, "<I", 2**32 - 1),
        "mass": with_numbers((8 + 4 * 8) * count, "<d", 5.0),
        "rest": with_numbers((8 + 12 * 8) * count, "<d", float("nan")),
        "losses": with_numbers((8 + 12 * 8 + 8) * count, "<d", float("inf")),
    }
    path = tmp_path / "bad"
    for name, data in bad.items():
        path.write_bytes(data)
        result = run("kl", pair.coarse, text, "--reference", str(path))
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), (name, result.output)
        assert result.stderr.startswith("error: "), name
    other = tmp_path / "text2.txt"
    other.write_text(TEXT.replace("Ishmael", "Samuel"))
    path.write_bytes(whole)
    foreign = run("kl", pair.coarse, other, "--reference", str(path))
    assert "same text and tokenizer" in foreign.stderr
    shorter = run("kl", pair.coarse, text, "--reference", str(path), "--window", "32")
    assert "window 64" in shorter.stderr
