"""Synthetic models to convert: Hugging Face directories of random bfloat16, the same every time."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from jang_format import TensorSpec

SEED: Final = 20
DEVIATION: Final = 0.02
# Values written at a time.
_CHUNK: Final = 1 << 22
_TOKENS: Final = {"<s>": 0, "</s>": 1, "<unk>": 2}


@dataclass(frozen=True)
class Model:
    """A model to be made.

    Attributes:
        name: Short.
        what: For people.
        config: The content of config.json; llama or qwen3_moe.
        shard_bytes: The most bytes of data in one weight file.
    """

    name: str
    what: str
    config: Mapping[str, Any]
    shard_bytes: int

    def tensors(self) -> list[TensorSpec]:
        """Its tensors under Hugging Face's names."""
        return [TensorSpec(name, "BF16", shape) for name, shape in _tensors(self.config)]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    @property
    def largest_module(self) -> int:
        """Weights of the largest module; the experts of a layer are one module."""
        experts = self.config.get("num_experts", 0)
        return max(
            math.prod(tensor.shape) * (experts if ".experts." in tensor.name else 1)
            for tensor in self.tensors()
        )


def _common(hidden: int, layers: int, heads: int, head_size: int, **more: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "head_dim": head_size,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": _TOKENS["<s>"],
        "eos_token_id": _TOKENS["</s>"],
        "torch_dtype": "bfloat16",
        **more,
    }


def _dense(common: Mapping[str, Any]) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **common}


def _moe(common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        **common,
    }


def _sizes(vocabulary: int, kv_heads: int, intermediate: int) -> dict[str, int]:
    return {
        "vocab_size": vocabulary,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
    }


def _experts(number: int, intermediate: int) -> dict[str, int]:
    return {"num_experts": number, "moe_intermediate_size": intermediate}


_ONE_FILE: Final = 1 << 62

MODELS: Final = {
    "dense": Model(
        name="dense",
        what="TinyLlama-1.1B's shape, one file",
        config=_dense(_common(2048, 22, 32, 64, **_sizes(32000, 4, 5632))),
        shard_bytes=_ONE_FILE,
    ),
    "moe": Model(
        name="moe",
        what="12 layers of 64 experts, tensors expert by expert, files of 2 GB",
        config=_moe(_common(2048, 12, 32, 128, **_sizes(48000, 4, 6144), **_experts(64, 768))),
        shard_bytes=2_000_000_000,
    ),
    "small": Model(
        name="small",
        what="24 layers of 128 small experts, 9,216 expert tensors, one file",
        config=_moe(_common(128, 24, 4, 32, **_sizes(1024, 2, 384), **_experts(128, 64))),
        shard_bytes=_ONE_FILE,
    ),
}

# The same kinds, in seconds: to see that everything runs.
QUICK_MODELS: Final = {
    "dense": Model(
        name="dense",
        what="2 layers",
        config=_dense(_common(512, 2, 8, 64, **_sizes(4096, 4, 1024))),
        shard_bytes=_ONE_FILE,
    ),
    "moe": Model(
        name="moe",
        what="2 layers of 8 experts, files of 10 MB",
        config=_moe(_common(512, 2, 8, 64, **_sizes(4096, 4, 1024), **_experts(8, 256))),
        shard_bytes=10_000_000,
    ),
    "small": Model(
        name="small",
        what="4 layers of 25 small experts, 300 expert tensors",
        config=_moe(_common(128, 4, 4, 32, **_sizes(1024, 2, 384), **_experts(25, 64))),
        shard_bytes=_ONE_FILE,
    ),
}


def made(model: Model, directory: Path) -> Path:
    """The model's directory inside `directory`, written unless it is there already."""
    out = directory / f"{model.name}-{model.nbytes}"
    if out.exists():
        return out
    work = out.with_name(f"{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _write(model, work)
    work.rename(out)
    return out


def _tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield from _attention(f"{prefix}.self_attn", config)
        yield from _feed_forward(f"{prefix}.mlp", config)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def _attention(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, head_size = config["hidden_size"], config["head_dim"]
    queries = config["num_attention_heads"] * head_size
    keys = config["num_key_value_heads"] * head_size
    yield f"{prefix}.q_proj.weight", (queries, hidden)
    yield f"{prefix}.k_proj.weight", (keys, hidden)
    yield f"{prefix}.v_proj.weight", (keys, hidden)
    yield f"{prefix}.o_proj.weight", (hidden, queries)
    if "num_experts" in config:
        yield f"{prefix}.q_norm.weight", (head_size,)
        yield f"{prefix}.k_norm.weight", (head_size,)


def _feed_forward(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = config["hidden_size"]
    if "num_experts" not in config:
        yield from _matrices(prefix, hidden, config["intermediate_size"])
        return
    yield f"{prefix}.gate.weight", (config["num_experts"], hidden)
    for expert in range(config["num_experts"]):
        inner = config["moe_intermediate_size"]
        yield from _matrices(f"{prefix}.experts.{expert}", hidden, inner)


def _matrices(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def _write(model: Model, out: Path) -> None:
    shards = list(_shards(model))
    weight_map: dict[str, str] = {}
    random = np.random.Generator(np.random.SFC64(SEED))
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (out / name).open("wb") as stream:
            _write_shard(stream, shard, random)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": model.nbytes}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    (out / "config.json").write_text(json.dumps(model.config, indent=2))
    _write_tokenizer(out)


def _shards(model: Model) -> Iterator[list[TensorSpec]]:
    shard: list[TensorSpec] = []
    filled = 0
    for tensor in model.tensors():
        if shard and filled + tensor.nbytes > model.shard_bytes:
            yield shard
            shard, filled = [], 0
        shard.append(tensor)
        filled += tensor.nbytes
    yield shard


def _write_shard(
    stream: BinaryIO, tensors: Sequence[TensorSpec], random: np.random.Generator
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        shape = list(tensor.shape)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": shape,
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        for chunk in _values(tensor, random):
            stream.write(chunk.data)


def _values(tensor: TensorSpec, random: np.random.Generator) -> Iterator[NDArray[np.uint16]]:
    """The values of a tensor in bfloat16: ones for a norm, else normal."""
    count = math.prod(tensor.shape)
    if len(tensor.shape) == 1:
        yield _bfloat16(np.ones(count, dtype=np.float32))
        return
    for start in range(0, count, _CHUNK):
        chosen = random.integers(0, 1 << 16, min(_CHUNK, count - start), dtype=np.uint16)
        yield _normal_values()[chosen]


@cache
def _normal_values() -> NDArray[np.uint16]:
    """65,536 values spread as a normal distribution: looked up, because drawing is slow."""
    distribution = NormalDist(0, DEVIATION)
    places = (np.arange(1 << 16) + 0.5) / (1 << 16)
    return _bfloat16(np.array([distribution.inv_cdf(place) for place in places], dtype=np.float32))


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _write_tokenizer(out: Path) -> None:
    """A tokenizer that all tools can load and that knows no word."""
    Tokenizer(WordLevel(_TOKENS, unk_token="<unk>")).save(str(out / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (out / "tokenizer_config.json").write_text(json.dumps(config))
