"""The conversion: what is written, what is kept, and what is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.utils import load_model
from typer.testing import CliRunner

from conftest import TINY_CONFIG, convert_to, write_tiny_source
from jang_format import decode_floats, dequantize, read_directory, validate
from jang_quant import (
    ConversionError,
    Progress,
    Recipe,
    SourceError,
    convert,
    find_profile,
    open_source,
    plan_source,
)
from jang_quant._methods import rtn
from jang_quant._quantize import MethodName
from jang_quant.cli import app
from jang_runtime.architecture import build_model


def test_the_files_weigh_what_the_plan_said_and_progress_counts_up_to_it(
    tiny_source: Path, tmp_path: Path
) -> None:
    source = open_source(str(tiny_source))
    plan = plan_source(source, find_profile("4M"))
    seen: list[Progress] = []
    conversion = convert(source, tmp_path / "out", plan, seen.append)
    directory = read_directory(tmp_path / "out")
    stored = sum(tensor.spec.nbytes for tensor in directory.tensors.values())
    assert stored == plan.tensor_bytes == seen[-1].done == seen[-1].total
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert len(seen) == len(plan.modules) + len(plan.others)
    assert conversion.weight_bytes == directory.weight_bytes
    assert conversion.weight_bytes == sum(
        file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")
    )


def test_the_same_source_and_plan_give_the_same_bytes(tiny_source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert_to(tiny_source, tmp_path / name, "3M")
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two


def test_config_and_manifest_say_how_each_module_is_stored(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    quantization = config.pop("quantization")
    assert config == TINY_CONFIG
    modules = {key: value for key, value in quantization.items() if isinstance(value, dict)}
    assert set(quantization) - set(modules) == {"group_size", "bits", "mode"}
    directory = read_directory(tiny_model)
    assert set(modules) == set(directory.quantized_paths())
    assert modules["lm_head"] == {"group_size": 64, "bits": 6, "mode": "affine"}
    manifest = json.loads((tiny_model / "jang_config.json").read_text())
    assert manifest["format"] == "jang"
    assert manifest["format_version"] == "2.0"
    assert manifest["source_model"]["quantization"] is None
    assert manifest["quantization"]["profile"] == "JANG_4M"
    assert set(manifest["roles"]) == set(modules)
    source_tokenizer = (tiny_model.parents[0] / "JANG_4M" / "tokenizer.json").read_bytes()
    assert (tiny_model / "tokenizer.json").read_bytes() == source_tokenizer


def test_values_come_from_float32_and_unquantized_tensors_keep_theirs(
    tiny_source: Path, tiny_model: Path
) -> None:
    source = open_source(str(tiny_source))
    directory = read_directory(tiny_model)
    for path in directory.quantized_paths():
        values = source.tensors[f"{path}.weight"].read()
        tensor = directory.quantized(path)
        # No weight is further off than one step of its group.
        steps = decode_floats(tensor.scales, tensor.dtype).repeat(tensor.group_size, axis=-1)
        assert np.all(np.abs(dequantize(tensor) - values) <= steps * 1.01)
    norm = directory.tensors["model.norm.weight"]
    assert norm.spec.dtype == "BF16"
    np.testing.assert_array_equal(
        decode_floats(norm.map(), "BF16"), source.tensors["model.norm.weight"].read()
    )


# The profiles that use every bit width, on a tied and an untied model.
@pytest.mark.parametrize("profile", ["1L", "2S", "3S", "4S", "6M", "UNIFORM_5"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "qwen3", "head_dim": 32},
        {"model_type": "mistral"},
        {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3},
        {"model_type": "gemma3_text", "head_dim": 32, "sliding_window_pattern": 2},
    ],
    ids=["llama", "qwen2-tied", "qwen3", "mistral", "hidden-96", "gemma3"],
)
def test_stock_mlx_lm_loads_the_result_and_computes_with_our_values(
    tmp_path: Path, profile: str, changes: dict[str, Any]
) -> None:
    """Loaded packed, the model gives what the source's class gives with dequantized weights."""
    directory = write_tiny_source(tmp_path / "source", **changes)
    out = convert_to(directory, tmp_path / "out", profile)
    packed, config = load_model(out)
    packed.set_dtype(mx.float32)
    plain = build_model(config)
    plain.load_weights(plain_weights(out))
    ids = mx.array([[5, 9, 200, 3, 77]])
    np.testing.assert_allclose(np.array(packed(ids)), np.array(plain(ids)), atol=1e-4)
    assert any(isinstance(m, nn.QuantizedLinear) for m in packed.modules())


def plain_weights(out: Path) -> list[tuple[str, mx.array]]:
    """All weights of a directory in float32, dequantized by jang-format."""
    directory = read_directory(out)
    quantized = directory.quantized_paths()
    weights = {f"{path}.weight": dequantize(directory.quantized(path)) for path in quantized}
    for name, stored in directory.tensors.items():
        if name.rpartition(".")[0] not in quantized or name.endswith(".bias"):
            weights[name] = decode_floats(stored.map(), stored.spec.dtype)
    return [(name, mx.array(values)) for name, values in weights.items()]


def test_values_beyond_float16_make_bfloat16_of_all_floats(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source", dtype=mx.float32)
    weights: dict[str, Any] = mx.load(str(directory / "model.safetensors"))  # type: ignore[assignment]
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = mx.where(mx.arange(256) == 7, 1e6, weights[name])
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    source = open_source(str(directory))
    conversion = convert(source, tmp_path / "out", plan_source(source, find_profile("4M")))
    assert conversion.float_dtype == "BF16"
    opened = read_directory(tmp_path / "out")
    assert {t.spec.dtype for t in opened.tensors.values()} == {"U32", "BF16"}
    values = dequantize(opened.quantized(name.removesuffix(".weight")))
    np.testing.assert_allclose(values[:, 7], 1e6, rtol=0.01)


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused_with_the_tensors_name_and_nothing_is_left(
    tmp_path: Path, bad: float, method: MethodName
) -> None:
    directory = write_tiny_source(tmp_path / "source")
    source = open_source(str(directory))
    name = "model.layers.1.self_attn.k_proj.weight"

    def load() -> Any:
        values = source.tensors[name].read()
        values[3, 4] = bad
        return values, "F32"

    poisoned = replace(
        source, tensors=dict(source.tensors) | {name: replace(source.tensors[name], load=load)}
    )
    with pytest.raises(SourceError, match=f"{name}: found NaN or infinity"):
        plan = plan_source(source, find_profile("4M"))
        convert(poisoned, tmp_path / "out", plan, recipe=Recipe(method))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_source_and_what_is_inside_it_are_no_output(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    source = open_source(str(directory))
    plan = plan_source(source, find_profile("4M"))
    (tmp_path / "link").symlink_to(directory)
    inside = (directory, directory / "out", tmp_path / "link", tmp_path / "link" / "out")
    for out in (*inside, directory / ".." / "source"):
        with pytest.raises(ConversionError, match="expected a directory outside the source"):
            convert(source, out, plan)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_an_output_that_exists_is_kept(tmp_path: Path, tiny_source: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ConversionError, match="exists already"):
        convert_to(tiny_source, tmp_path / "out", "4M")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize("budget", [["--bits", "6.3"], ["--profile", "2S"], ["--size", "300KB"]])
def test_block_layout_holds_the_same_values_in_the_bytes_that_were_planned(
    budget: list[str], tiny_source: Path, tmp_path: Path
) -> None:
    """Zeros are rounded where biases were not, by far less than a step."""
    out = tmp_path / "blocks"
    command = ["convert", str(tiny_source), str(out), "--layout", "blocks", "--json", *budget]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert validate(out).problems == ()
    blocks = read_directory(out)
    assert blocks.layout.name == "blocks"
    stored = sum(tensor.spec.nbytes for tensor in blocks.tensors.values())
    assert stored == document["tensor_bytes"]
    if "--size" in budget:
        assert 0.97 * 300_000 < document["weight_bytes"] <= 300_000
    source = open_source(str(tiny_source))
    for path in blocks.quantized_paths():
        tensor = blocks.quantized(path)
        assert tensor.group_size == 64
        assert tensor.bits is not None
        own = rtn.quantize(source.tensors[f"{path}.weight"].read(), tensor.bits, 64, "F16").tensor
        step = decode_floats(own.scales, "F16").max()
        assert np.abs(dequantize(tensor) - dequantize(own)).max() < 0.07 * step


def test_blocks_are_groups_of_64(tiny_source: Path, tmp_path: Path) -> None:
    command = ["convert", str(tiny_source), str(tmp_path / "out"), "--layout", "blocks", "-g", "32"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "--layout blocks: found groups of 32, expected 64" in result.stderr


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source")
    source = open_source(str(directory))
    plan = plan_source(source, find_profile("4M"))

    def touch(progress: Progress) -> None:
        # After the last tensor was read.
        if progress.done == progress.total:
            os.utime(directory / "model.safetensors", (1, 1))

    with pytest.raises(SourceError, match="model.safetensors: found it changed"):
        convert(source, tmp_path / "out", plan, touch)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
