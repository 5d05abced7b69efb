"""Hugging Face directories as sources: every form they come in, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from conftest import write_tiny_source
from jang_quant import SourceError, open_source
from jang_quant._calibration.run import encoder
from jang_quant._sources.config_keys import mlx_config


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("sharded", [False, True])
def test_every_float_type_in_one_file_or_in_shards_reads_back_exactly(
    tmp_path: Path, dtype: mx.Dtype, sharded: bool
) -> None:
    directory = write_tiny_source(tmp_path / "source", dtype=dtype)
    written: dict[str, Any] = mx.load(str(directory / "model.safetensors"))  # type: ignore[assignment]
    if sharded:
        split(directory, written)
    source = open_source(str(directory))
    assert set(source.tensors) == set(written)
    for path, tensor in source.tensors.items():
        values = tensor.read()
        assert values.dtype == np.float32
        assert tensor.shape == values.shape
        np.testing.assert_array_equal(values, np.array(written[path].astype(mx.float32)))
    assert source.quantization is None
    assert source.name == "source"
    assert "tokenizer.json" in source.side_files


def split(directory: Path, weights: dict[str, Any]) -> None:
    """Replace the one weight file by two and an index."""
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        mx.save_safetensors(str(directory / file), {name: weights[name] for name in held})
    (directory / "model.safetensors").unlink()
    weight_map = {name: file for file, held in shards.items() for name in held}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def test_tensors_that_the_model_does_not_use_are_left_out_as_mlx_lm_does(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source", tie_word_embeddings=True)
    weights: dict[str, Any] = mx.load(str(directory / "model.safetensors"))  # type: ignore[assignment]
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = mx.zeros((16,))
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    source = open_source(str(directory))
    assert "lm_head.weight" not in source.tensors
    assert not [path for path in source.tensors if "rotary" in path]


def test_the_fingerprint_follows_weights_config_and_tokenizer(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source")
    fingerprints = [open_source(str(directory)).fingerprint]
    assert open_source(str(directory)).fingerprint == fingerprints[0]
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(content | {"changed": True}))
        fingerprints.append(open_source(str(directory)).fingerprint)
    shutil.copy(directory / "model.safetensors", directory / "copy")
    (directory / "copy").rename(directory / "model.safetensors")
    fingerprints.append(open_source(str(directory)).fingerprint)
    assert len(set(fingerprints)) == 4


@pytest.mark.parametrize(
    ("parameters", "flat"),
    [
        ({"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "partial_rotary_factor": 0.5},
            {"rope_theta": 5e5, "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0},
            {
                "rope_theta": 5e5,
                "rope_scaling": {"rope_type": "llama3", "type": "llama3", "factor": 8.0},
            },
        ),
        (
            {
                "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
            },
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 8.0},
            },
        ),
        (None, {}),
    ],
)
def test_rope_parameters_of_newer_configs_are_put_where_mlx_lm_reads_them(
    parameters: dict[str, Any] | None, flat: dict[str, Any]
) -> None:
    config = {"model_type": "llama", "rope_parameters": parameters}
    assert mlx_config(config) == config | flat
    assert mlx_config({"text_config": config}) == {"text_config": config | flat}
    # What stands where mlx-lm reads it already counts, null does not.
    assert mlx_config(config | {"rope_theta": 7.0})["rope_theta"] == 7.0
    assert mlx_config(config | {"rope_theta": None}) == {**config, "rope_theta": None} | flat


def edit_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


def edit_weights(directory: Path, **changes: mx.array | None) -> None:
    weights: dict[str, Any] = mx.load(str(directory / "model.safetensors"))  # type: ignore[assignment]
    weights |= changes
    kept = {name: array for name, array in weights.items() if array is not None}
    mx.eval(kept)
    mx.save_safetensors(str(directory / "model.safetensors"), kept)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: file: found nothing"),
        (lambda d: (d / "config.json").write_text("{]"), "config.json: content: found no JSON"),
        (lambda d: edit_config(d, model_type="nonesuch"), "mlx-lm cannot build it .*nonesuch"),
        (lambda d: edit_config(d, model_type=3), "model_type: found 3, expected a name"),
        (lambda d: edit_config(d, hidden_size="big"), "mlx-lm cannot build it"),
        (
            lambda d: edit_config(d, quantization_config={"quant_method": "gptq"}),
            "quantization_config.quant_method: found 'gptq', expected a model in bf16",
        ),
        (lambda d: (d / "model.safetensors").unlink(), r"found no \*.safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b"xx"), "header"),
        (
            lambda d: edit_weights(d, **{"model.norm.weight": None}),
            "model.norm.weight: found no such tensor",
        ),
        (
            lambda d: edit_weights(d, **{"model.extra.weight": mx.zeros((2,))}),
            "model.extra.weight: found a tensor that the model does not have",
        ),
        (
            lambda d: edit_weights(d, **{"model.norm.weight": mx.zeros((5,))}),
            r"model.norm.weight: found shape \(5,\), expected \(128,\)",
        ),
        (
            lambda d: edit_weights(d, **{"model.norm.weight": mx.zeros((128,), mx.uint8)}),
            "model.norm.weight: found uint8, expected one of F32, F16, BF16",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "../other.safetensors"}})
            ),
            "found '../other.safetensors', expected a file in the same directory",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "gone.safetensors"}})
            ),
            "gone.safetensors: no such file",
        ),
    ],
)
def test_a_directory_that_cannot_be_converted_says_why_in_one_line(
    tmp_path: Path, damage: Any, message: str
) -> None:
    directory = write_tiny_source(tmp_path / "source")
    damage(directory)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(directory))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError(), OSError("\n"), OSError("no route\nto the host")])
def test_a_hub_that_fails_without_a_word_is_one_line_too(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    message = r"^a/b: the Hugging Face hub does not give it \((OSError|no route)\)$"
    with pytest.raises(SourceError, match=message):
        open_source("a/b")


def test_a_tokenizer_that_fails_without_a_word_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(write_tiny_source(tmp_path / "source")))

    def fail(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(SourceError, match=r"no tokenizer, which a text needs \(ValueError\)$"):
        encoder(source)
