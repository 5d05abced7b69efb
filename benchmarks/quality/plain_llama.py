"""A llama in numpy and float64, from a directory's files: what MLX has no part in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format import decode_floats, dequantize, read_directory, read_json

Doubles = NDArray[np.float64]
_NOT_YET: Final = -np.inf


@dataclass(frozen=True)
class PlainLlama:
    """Weights by their names in the files, dequantized, and what config.json says."""

    config: Mapping[str, Any]
    weights: Mapping[str, Doubles]


def read_weights(directory: Path) -> dict[str, NDArray[np.float32]]:
    """All parameters as the files hold them; each float32 is exact."""
    opened = read_directory(directory)
    names = opened.quantized_names()
    weights = {
        name: decode_floats(tensor.map(), tensor.spec.dtype)
        for name, tensor in opened.tensors.items()
        if name not in names
    }
    return weights | {
        f"{path}.weight": dequantize(opened.quantized(path)) for path in opened.quantized_paths()
    }


def read_llama(directory: Path) -> PlainLlama:
    """The model of a directory, of either layout."""
    weights = {name: each.astype(np.float64) for name, each in read_weights(directory).items()}
    return PlainLlama(read_json(directory / "config.json"), weights)


def token_logprobs(model: PlainLlama, tokens: Sequence[int]) -> Doubles:
    """How likely each token but the first is after those before it, `[tokens - 1]`, in nats."""
    logits = _logits(model, np.array(tokens))[:-1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(shifted)), np.array(tokens[1:])]
    return chosen - np.log(np.exp(shifted).sum(axis=1))


def _logits(model: PlainLlama, tokens: NDArray[np.int64]) -> Doubles:
    config, weights = model.config, model.weights
    hidden = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        normed = _norm(model, hidden, f"{path}.input_layernorm.weight")
        hidden = hidden + _attention(model, normed, f"{path}.self_attn")
        normed = _norm(model, hidden, f"{path}.post_attention_layernorm.weight")
        hidden = hidden + _mlp(weights, normed, f"{path}.mlp")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return _norm(model, hidden, "model.norm.weight") @ head.T


def _norm(model: PlainLlama, hidden: Doubles, name: str) -> Doubles:
    square = np.mean(hidden**2, axis=-1, keepdims=True)
    return hidden / np.sqrt(square + model.config["rms_norm_eps"]) * model.weights[name]


def _mlp(weights: Mapping[str, Doubles], hidden: Doubles, path: str) -> Doubles:
    gate = hidden @ weights[f"{path}.gate_proj.weight"].T
    up = hidden @ weights[f"{path}.up_proj.weight"].T
    return (gate / (1 + np.exp(-gate)) * up) @ weights[f"{path}.down_proj.weight"].T


def _attention(model: PlainLlama, hidden: Doubles, path: str) -> Doubles:
    config, count = model.config, len(hidden)
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]

    def project(name: str, parts: int) -> Doubles:
        rows = hidden @ model.weights[f"{path}.{name}.weight"].T
        return rows.reshape(count, parts, -1).transpose(1, 0, 2)

    queries = _turned(project("q_proj", heads), config["rope_theta"])
    keys = np.repeat(_turned(project("k_proj", shared), config["rope_theta"]), heads // shared, 0)
    values = np.repeat(project("v_proj", shared), heads // shared, 0)
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(queries.shape[-1])
    scores += np.triu(np.full((count, count), _NOT_YET), 1)
    likely = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = likely / likely.sum(axis=-1, keepdims=True) @ values
    together = mixed.transpose(1, 0, 2).reshape(count, -1)
    return together @ model.weights[f"{path}.o_proj.weight"].T


def _turned(rows: Doubles, theta: float) -> Doubles:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), a head's halves as pairs."""
    half = rows.shape[-1] // 2
    frequencies = np.exp(-np.log(theta) * np.arange(half, dtype=np.float64) / half)
    angles = np.arange(rows.shape[1], dtype=np.float64)[:, None] * frequencies
    cosine, sine = np.cos(angles), np.sin(angles)
    first, second = rows[..., :half], rows[..., half:]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)
