"""The logits of a llama or Mixtral in float64, the slow and obvious way."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def logits(config: dict[str, Any], weights: dict[str, Floats], ids: list[int]) -> Floats:
    """`[tokens, vocabulary]`, from matrices and norms by module path."""
    model = Forward(config, weights)
    x = weights["model.embed_tokens"][ids]
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        x = x + model.attend(model.norm(x, f"{path}.input_layernorm"), f"{path}.self_attn")
        h = model.norm(x, f"{path}.post_attention_layernorm")
        if config["model_type"] == "mixtral":
            x = x + model.mix_experts(h, f"{path}.block_sparse_moe")
        else:
            x = x + model.feed_forward(h, f"{path}.mlp")
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return model.norm(x, "model.norm") @ weights[head].T


@dataclass(frozen=True)
class Forward:
    """The parts of a layer."""

    config: dict[str, Any]
    weights: dict[str, Floats]

    def norm(self, x: Floats, path: str) -> Floats:
        """Divided by the root of the mean square, times the weights of the norm."""
        squares = (x**2).mean(-1, keepdims=True)
        return x / np.sqrt(squares + self.config["rms_norm_eps"]) * self.weights[path]

    def attend(self, h: Floats, path: str) -> Floats:
        """Causal attention, heads that share keys and values included."""
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        q, k, v = (h @ self.weights[f"{path}.{name}_proj"].T for name in "qkv")
        q = self.rotate(q.reshape(len(h), heads, -1))
        k = self.rotate(k.reshape(len(h), kv_heads, -1))
        v = v.reshape(len(h), kv_heads, -1)
        out = np.zeros_like(q)
        for head in range(heads):
            shared = head * kv_heads // heads
            scores = q[:, head] @ k[:, shared].T / np.sqrt(q.shape[-1])
            scores += np.triu(np.full_like(scores, -np.inf), 1)
            out[:, head] = softmax(scores) @ v[:, shared]
        return out.reshape(len(h), -1) @ self.weights[f"{path}.o_proj"].T

    def rotate(self, x: Floats) -> Floats:
        """Rotary positions of `[tokens, heads, size]`: one half against the other."""
        size = x.shape[-1]
        turns = self.config["rope_theta"] ** (-np.arange(0, size, 2) / size)
        angles = np.arange(len(x))[:, None, None] * turns
        first, second = x[..., : size // 2], x[..., size // 2 :]
        turned = (
            first * np.cos(angles) - second * np.sin(angles),
            second * np.cos(angles) + first * np.sin(angles),
        )
        return np.concatenate(turned, axis=-1)

    def feed_forward(self, h: Floats, path: str, expert: Any = ...) -> Floats:
        """The MLP, or one expert of a stack of them."""
        gate = h @ self.weights[f"{path}.gate_proj"][expert].T
        up = h @ self.weights[f"{path}.up_proj"][expert].T
        return gate / (1 + np.exp(-gate)) * up @ self.weights[f"{path}.down_proj"][expert].T

    def mix_experts(self, h: Floats, path: str) -> Floats:
        """The experts with the highest scores of each token, mixed by the softmax of these."""
        out = np.zeros_like(h)
        for token, scores in enumerate(h @ self.weights[f"{path}.gate"].T):
            best = np.argsort(scores)[-self.config["num_experts_per_tok"] :]
            for share, expert in zip(softmax(scores[best]), best.tolist(), strict=True):
                out[token] += share * self.feed_forward(h[token], f"{path}.switch_mlp", expert)
        return out


def softmax(scores: Floats) -> Floats:
    """Shares that add up to 1, along the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
