"""Random models in MLX layout, written packed: no unquantized form of them ever exists.

Codes are drawn, scales chosen so that the weights have the deviation of trained ones; the same
config gives the same bytes every time. For measurements of speed and memory.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from jang_format import (
    DirectoryWriter,
    QuantizedModule,
    TensorSpec,
    encode_floats,
    mlx_specs,
    open_writer,
    quantization_config,
)
from jang_runtime.architecture import build_model, parameter_shapes, quantizable_modules

SEED: Final = 20
DEVIATION: Final = 0.02
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json")
_TOKENS: Final = {"<s>": 0, "</s>": 1, "<unk>": 2}

# Bits and group size of a module, from its path.
Choice = Callable[[str], tuple[int, int]]

# The shape of Llama 3.2 1B: 1.24 G weights, of which the embedding, which is the head, has 0.26.
LLAMA_1B: Final[Mapping[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}


def write_packed_model(
    out: Path,
    config: Mapping[str, Any],
    choice: Choice,
    *,
    dtype: str = "BF16",
    tokenizer: Path | None = None,
) -> Path:
    """Write a random model as a directory that stock mlx-lm loads.

    Args:
        out: The directory to make.
        config: The content of config.json without `quantization`.
        choice: Bits and group size of each module that can be quantized.
        dtype: How scales, biases and norms are stored: "F16" or "BF16".
        tokenizer: A directory whose tokenizer is copied; None writes one of three tokens.

    Returns:
        `out`.
    """
    model = build_model(config)
    shapes = quantizable_modules(model)
    modules = {path: QuantizedModule(*choice(path), role="") for path in shapes}
    specs = {
        path: mlx_specs(path, shapes[path], module.bits, module.group_size, dtype)
        for path, module in modules.items()
    }
    weights = {f"{path}.weight" for path in modules}
    others = [
        TensorSpec(path, dtype, shape)
        for path, shape in parameter_shapes(model).items()
        if path not in weights
    ]
    random = np.random.Generator(np.random.SFC64(SEED))
    with open_writer(out, [*(spec for group in specs.values() for spec in group), *others]) as file:
        for path, group in specs.items():
            for spec in group:
                file.write_tensor(spec.name, _values(spec, modules[path].bits, random))
        for spec in others:
            file.write_tensor(spec.name, encode_floats(_norm(spec), dtype))
        file.write_json("config.json", {**config, "quantization": quantization_config(modules)})
        _write_tokenizer(file, tokenizer)
    return out


def _values(spec: TensorSpec, bits: int, random: np.random.Generator) -> NDArray[Any]:
    """The codes of a module, or its scales, or its biases."""
    if spec.dtype == "U32":
        return random.integers(0, 1 << 32, spec.shape, dtype=np.uint32)
    # Codes spread evenly over 0 to 2^bits - 1 have a deviation of sqrt((4^bits - 1) / 12).
    scale = DEVIATION / math.sqrt(((1 << 2 * bits) - 1) / 12)
    value = scale if spec.name.endswith(".scales") else -scale * ((1 << bits) - 1) / 2
    return encode_floats(np.full(spec.shape, value, dtype=np.float32), spec.dtype)


def _norm(spec: TensorSpec) -> NDArray[np.float32]:
    value = 0.0 if spec.name.endswith(".bias") else 1.0
    return np.full(spec.shape, value, dtype=np.float32)


def _write_tokenizer(file: DirectoryWriter, directory: Path | None) -> None:
    if directory is not None:
        for name in TOKENIZER_FILES:
            file.copy_file(name, directory / name)
        return
    tokenizer = Tokenizer(WordLevel(_TOKENS, unk_token="<unk>"))
    file.write_file("tokenizer.json", tokenizer.to_str().encode())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    file.write_file("tokenizer_config.json", json.dumps(config).encode())
