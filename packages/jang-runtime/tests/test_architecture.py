"""Models from configs: what mlx-lm's classes do to a config, and what they say of parameters."""

import copy
from typing import Any

import mlx.core as mx
import pytest

from jang_runtime import ModelError
from jang_runtime.architecture import build_model, keeps_precision, quantizable_modules, sanitize

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 64,
}
MAMBA: dict[str, Any] = {
    "model_type": "mamba2",
    "num_heads": 2,
    "head_dim": 64,
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "state_size": 16,
    "num_hidden_layers": 1,
    "layer_norm_epsilon": 1e-5,
    "conv_kernel": 4,
    "n_groups": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": True,
    "time_step_limit": [0.0, {"__float__": "Infinity"}],
    "time_step_rank": 4,
}


def test_a_config_stays_as_it_is_when_its_model_is_built() -> None:
    config = {"model_type": "mistral3", "text_config": dict(LLAMA)}
    before = copy.deepcopy(config)
    model = build_model(config)
    assert config == before
    assert "language_model.lm_head" in quantizable_modules(model)


def test_numbers_that_json_cannot_hold_are_read_as_transformers_writes_them() -> None:
    model: Any = build_model(MAMBA)
    assert model.args.time_step_limit == [0.0, float("inf")]
    assert MAMBA["time_step_limit"][1] == {"__float__": "Infinity"}


def test_parameters_that_mlx_lm_does_not_round_are_named() -> None:
    hybrid = {
        **LLAMA,
        "model_type": "qwen3_5",
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 64,
    }
    model = build_model(hybrid)
    assert keeps_precision(model, "language_model.model.layers.0.linear_attn.A_log")
    assert not keeps_precision(model, "language_model.model.layers.0.linear_attn.dt_bias")
    assert not keeps_precision(build_model(LLAMA), "model.norm.weight")


def test_tensors_that_a_class_cannot_take_are_refused_in_one_line() -> None:
    experts = {**LLAMA, "model_type": "mixtral", "num_local_experts": 2, "num_key_value_heads": 2}
    incomplete = {"model.layers.0.block_sparse_moe.experts.0.w1.weight": mx.zeros((128, 64))}
    with pytest.raises(ModelError, match="mixtral: mlx-lm cannot take these tensors") as caught:
        sanitize(build_model(experts), incomplete)
    assert "\n" not in str(caught.value)
