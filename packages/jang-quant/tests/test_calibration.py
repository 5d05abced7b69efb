"""What calibration says of a model, held against the model itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from typer.testing import CliRunner

from jang_quant import Source, open_source
from jang_quant._calibration.collect import collect
from jang_quant._calibration.statistics import Calibration, CalibrationText
from jang_quant._calibration.store import join, load
from jang_quant._calibration.texts import file_text, own_text
from jang_quant._errors import SourceError
from jang_quant._sensitivity import _parts
from jang_quant.cli import app
from jang_runtime.architecture import build_model

MODULES = [
    "model.embed_tokens",
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.o_proj",
    "model.layers.1.mlp.gate_proj",
    "model.layers.1.mlp.down_proj",
]


@pytest.fixture(scope="module")
def model(tiny_source: Path) -> nn.Module:
    source = open_source(str(tiny_source))
    model = build_model(source.config)
    model.load_weights([(path, mx.array(t.read())) for path, t in source.tensors.items()])
    return model


@pytest.fixture(scope="module")
def text() -> CalibrationText:
    tokens = np.random.default_rng(0).integers(0, 200, (24, 48), dtype=np.int32)
    return CalibrationText(tokens, "test", 0)


def calibrated(source: Source, text: CalibrationText, file: Path) -> Calibration:
    folder = file.with_name(f"{file.name}.work")
    folder.mkdir()
    collect(build_model(source.config), source.tensors, text, folder, backward=24)
    join(folder, text, source, file)
    return load(file, source)


@pytest.fixture(scope="module")
def calibration(
    tiny_source: Path, text: CalibrationText, tmp_path_factory: pytest.TempPathFactory
) -> Calibration:
    source = open_source(str(tiny_source))
    return calibrated(source, text, tmp_path_factory.mktemp("known") / "known.safetensors")


def log_probabilities(model: nn.Module, text: CalibrationText) -> np.ndarray:
    return np.array(nn.log_softmax(model(mx.array(text.tokens))).astype(mx.float32)).astype(float)


def test_second_moments_are_those_of_the_inputs(
    model: nn.Module, text: CalibrationText, calibration: Calibration
) -> None:
    hidden = np.array(model.model.embed_tokens(mx.array(text.tokens)))
    layer = model.model.layers[0]
    x = np.array(layer.input_layernorm(mx.array(hidden))).reshape(-1, hidden.shape[-1])
    expected = x.T.astype(float) @ x / len(x)
    for name in ("q_proj", "k_proj", "v_proj"):
        found = calibration.modules[f"model.layers.0.self_attn.{name}"].moments
        assert found is not None
        np.testing.assert_allclose(found.read(0), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.diagonals, np.diag(expected)[None], rtol=1e-4, atol=1e-6)
    lookups = calibration.modules["model.embed_tokens"].lookups
    assert lookups is not None
    counts = np.bincount(text.tokens.reshape(-1), minlength=len(lookups.frequencies))
    np.testing.assert_allclose(lookups.frequencies, counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("path", [*MODULES, "lm_head"])
def test_the_estimate_predicts_what_a_small_error_does(
    path: str, model: nn.Module, text: CalibrationText, calibration: Calibration
) -> None:
    module = dict(model.named_modules())[path]
    before = log_probabilities(model, text)
    kept = module.weight
    values = np.array(kept)
    noise = np.random.default_rng(1).normal(0, 0.03 * values.std(), values.shape)
    off = noise.astype(np.float32)
    try:
        module.weight = mx.array(values + off)
        after = log_probabilities(model, text)
    finally:
        module.weight = kept
    measured = (np.exp(before) * (before - after)).sum(axis=-1).mean()
    parts = _parts(off, calibration.modules[path])
    estimated = sum(part.damage(part.values) for part in parts)
    assert 0.6 < estimated / measured < 1.7


def test_the_models_own_text_depends_on_the_seed_alone(model: nn.Module) -> None:
    once = own_text(model, 200, sequences=5, length=12, seed=3)
    again = own_text(model, 200, sequences=5, length=12, seed=3)
    other = own_text(model, 200, sequences=5, length=12, seed=4)
    assert once.tokens.shape == (5, 12)
    np.testing.assert_array_equal(once.tokens, again.tokens)
    assert (once.tokens != other.tokens).any()
    assert len({tuple(row) for row in once.tokens.tolist()}) == 5


def test_a_files_text_is_cut_into_sequences_that_do_not_overlap(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("".join(chr(97 + n % 26) for n in range(100)))
    made = file_text(file, lambda text: list(range(len(text))), sequences=3, length=16, seed=1)
    assert made.tokens.shape == (3, 16)
    assert len(set(made.tokens.reshape(-1).tolist())) == 48
    assert (made.tokens[:, 0] % 16 == 0).all()
    lines = tmp_path / "text.jsonl"
    lines.write_text('{"text": "ab"}\n{"text": "cd"}\n')
    made = file_text(lines, lambda text: [ord(c) for c in text], sequences=9, length=5)
    assert made.tokens.tolist() == [[97, 98, 10, 99, 100]]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"ab", "found 2 tokens, expected 16 or more"), (b"\xff\xfe", "cannot be read as UTF-8")],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        file_text(tmp_path / "text.txt", lambda text: [1] * len(text), length=16)


def test_a_calibration_of_another_source_is_refused(
    text: CalibrationText, tiny_source: Path, tmp_path: Path
) -> None:
    source = open_source(str(tiny_source))
    file = tmp_path / "known.safetensors"
    join(tmp_path, text, replace(source, fingerprint="other"), file)
    with pytest.raises(SourceError, match="source: found another one, expected"):
        load(file, source)
    file.write_bytes(b"nothing")
    with pytest.raises(SourceError, match="header length"):
        load(file, source)
    mx.save_safetensors(str(file), {"a": mx.zeros(1)})
    with pytest.raises(SourceError, match="format: found None"):
        load(file, source)


def rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> Path:
    """A copy of a calibration file with something changed in it."""
    arrays, metadata = mx.load(str(file), return_metadata=True)
    change(arrays, metadata)
    mx.save_safetensors(str(file.with_name("changed.safetensors")), arrays, metadata)
    return file.with_name("changed.safetensors")


Q = "model.layers.0.self_attn.q_proj"
DAMAGES: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, str]], object]]] = {
    "no tokens": ("tokens: found None", lambda a, m: a.pop("tokens")),
    "negative tokens": ("tokens: found negative", lambda a, m: a.update(tokens=-1 - a["tokens"])),
    "foreign tokens": (
        "found tokens beyond",
        lambda a, m: a.update(tokens=a["tokens"] + 999),
    ),
    "no seed": ("seed: found nothing", lambda a, m: m.pop("seed")),
    "keys of no JSON": ("keys: found \\{", lambda a, m: m.update(keys="{")),
    "keys of numbers": ("keys: found", lambda a, m: m.update(keys='{"a": 1}')),
    "a foreign module": ("found a module that", lambda a, m: m.update(keys=f'{{"x": "{Q}"}}')),
    "a short matrix": (
        f"{Q}.second_moments.0: found",
        lambda a, m: a.update({f"{Q}.second_moments.0": mx.zeros(5)}),
    ),
    "no diagonals": ("0 matrices for", lambda a, m: a.pop(f"{Q}.second_moments_diagonals")),
    "NaN": (
        "numbers below 0, or none",
        lambda a, m: a.update({f"{Q}.gradients": a[f"{Q}.gradients"] * float("nan")}),
    ),
    "a type": (
        "gradients: found",
        lambda a, m: a.update({f"{Q}.gradients": a[f"{Q}.gradients"].astype(mx.float16)}),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_calibration_that_somebody_else_made_is_refused_by_what_is_wrong(
    name: str, text: CalibrationText, tiny_source: Path, tmp_path: Path
) -> None:
    source = open_source(str(tiny_source))
    calibrated(source, replace(text, tokens=text.tokens[:1]), tmp_path / "known.safetensors")
    message, change = DAMAGES[name]
    changed = rewritten(tmp_path / "known.safetensors", change)
    with pytest.raises(SourceError, match=f"changed.safetensors: .*{message}|{message}"):
        load(changed, source)
    command = ["plan", str(tiny_source), "--bits", "4", "--calibration", str(changed)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "changed.safetensors" in result.stderr


def test_a_calibration_does_not_go_into_its_source(tiny_source: Path) -> None:
    inside = str(tiny_source / "known.safetensors")
    result = CliRunner().invoke(app, ["calibrate", str(tiny_source), inside])
    assert result.exit_code == 2
    assert "expected a directory outside the source" in result.stderr
    weights = str(tiny_source / "model.safetensors")
    assert CliRunner().invoke(app, ["calibrate", str(tiny_source), weights]).exit_code == 2
    assert open_source(str(tiny_source)).tensors
