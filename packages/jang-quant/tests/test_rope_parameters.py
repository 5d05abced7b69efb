"""RoPE in the configs of transformers 5: where mlx-lm's classes read it, each of them."""

from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from jang_quant import open_source
from jang_runtime.architecture import build_model, sanitize

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))
ARCHITECTURES = HELPERS["ARCHITECTURES"]
write_checkpoint = HELPERS["write_checkpoint"]

IDS = mx.array([[5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300]])
# No class's default.
THETA, LOCAL_THETA = 4321.0, 987.0

# Those with RoPE that read it elsewhere than in rope_parameters, or there too.
NAMES = [
    *("llama", "llama_tied", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "qwen3_next"),
    *("gemma", "gemma2", "gemma3_text", "gemma3", "gemma3n", "phi", "phi3", "phimoe", "mixtral"),
    *("minimax", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "gpt_oss"),
    *("falcon_h1", "granitemoehybrid"),
]
LAYER_KINDS = ("gemma3_text", "gemma3n_text")


def with_theta(config: dict[str, Any], theta: float) -> dict[str, Any]:
    """The config with this base, where mlx-lm reads it."""
    if "text_config" in config:
        return config | {"text_config": with_theta(config["text_config"], theta)}
    local = {"rope_local_base_freq": LOCAL_THETA} if config["model_type"] in LAYER_KINDS else {}
    return config | {"rope_theta": theta} | local


def as_transformers_5_writes(config: dict[str, Any]) -> dict[str, Any]:
    """The same in rope_parameters and nowhere else."""
    if "text_config" in config:
        return config | {"text_config": as_transformers_5_writes(config["text_config"])}
    moved = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq")
    rest = {key: value for key, value in config.items() if key not in moved}
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    table = scaling | {"rope_type": kind, "rope_theta": config["rope_theta"]}
    if "partial_rotary_factor" in config:
        table["partial_rotary_factor"] = config["partial_rotary_factor"]
    if "rope_local_base_freq" in config:
        local = {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]}
        table = {"full_attention": table, "sliding_attention": local}
    return rest | {"rope_parameters": table}


def logits(directory: Path) -> NDArray[np.float32]:
    """Of the source as it was opened, unquantized."""
    source = open_source(str(directory))
    model = build_model(source.config)
    weights = {path: mx.array(tensor.read()) for path, tensor in source.tensors.items()}
    model.load_weights(list(sanitize(model, weights).items()))
    return np.array(model(IDS))  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_the_base_of_rope_counts_wherever_the_config_has_it(name: str, tmp_path: Path) -> None:
    config = ARCHITECTURES[name]["config"]
    flat = with_theta(config, THETA)
    newer = as_transformers_5_writes(flat)
    assert "rope_theta" not in newer
    away = dict.fromkeys(config)
    expected = logits(write_checkpoint(tmp_path / "flat", name, **away | flat))
    np.testing.assert_array_equal(
        logits(write_checkpoint(tmp_path / "newer", name, **away | newer)), expected
    )
    other = as_transformers_5_writes(with_theta(config, 2 * THETA))
    changed = logits(write_checkpoint(tmp_path / "other", name, **away | other)) - expected
    assert np.abs(changed).max() > 0.01
