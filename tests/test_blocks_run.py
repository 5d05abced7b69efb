"""Models in block layout run as they are, with a width of its own for each block."""

import json
import shutil
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from conftest import write_byte_tokenizer
from jang_format import (
    BIT_WIDTHS,
    BLOCK_LAYOUT,
    QuantizedTensor,
    assemble_blocks,
    block_arrays,
    block_specs,
    decode_floats,
    dequantize,
    open_writer,
    read_directory,
    unpack_codes,
)
from jang_quant import convert, find_profile, open_source, plan_source
from jang_runtime._model import load
from jang_runtime.architecture import build_model

HELPERS = run_path(
    str(Path(__file__).parents[1] / "packages" / "jang-quant" / "tests" / "checkpoints.py")
)
PROMPT = (5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300)
NEXT = (44, 7)
# Of the largest logit: the same sums in another order.
TOLERANCE = 1e-4


def widened(tensor: QuantizedTensor, random: np.random.Generator) -> QuantizedTensor:
    """The same codes, each block in a width drawn from its own upward; values stay."""
    assert tensor.bits is not None
    assert tensor.zeros is not None
    words = tensor.packed.view("<u4").reshape(1, -1)
    codes = unpack_codes(words, tensor.bits).reshape(*tensor.scales.shape[:-1], -1)
    wider = np.array([bits for bits in BIT_WIDTHS if bits >= tensor.bits], dtype=np.uint8)
    return assemble_blocks(
        codes[..., : tensor.shape[-1]],
        decode_floats(tensor.scales, "F16"),
        decode_floats(tensor.zeros, "F16"),
        random.choice(wider, tensor.scales.shape),
    )


def with_mixed_blocks(name: str, folder: Path) -> tuple[Path, dict[str, NDArray[np.float32]]]:
    """A random model of an architecture in blocks of mixed widths, and its values by path."""
    checkpoint: Path = HELPERS["write_checkpoint"](folder / "source", name)
    write_byte_tokenizer(checkpoint)
    source = open_source(str(checkpoint))
    uniform = folder / "uniform"
    convert(source, uniform, plan_source(source, find_profile("2S"), layout="blocks"))
    directory = read_directory(uniform)
    random = np.random.default_rng(5)
    mixed = {
        path: widened(directory.quantized(path), random) for path in directory.quantized_paths()
    }
    others = {
        name: directory.tensors[name]
        for name in directory.tensors.keys() - directory.quantized_names()
    }
    specs = [
        spec
        for path, tensor in mixed.items()
        for spec in block_specs(path, tensor.shape, tensor.packed.size)
    ]
    specs += [tensor.spec for tensor in others.values()]
    out = folder / "mixed"
    with open_writer(out, specs, layout=BLOCK_LAYOUT) as writer:
        for path, tensor in mixed.items():
            for part, array in block_arrays(tensor).items():
                writer.write_tensor(f"{path}.{part}", array)
        for other, tensor in others.items():
            writer.write_tensor(other, tensor.map())
        writer.write_json("config.json", dict(directory.config))
        writer.write_json("jang_config.json", {"format": "jang", "format_version": "1.0"})
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / file, out / file)
    values = {f"{path}.weight": dequantize(tensor) for path, tensor in mixed.items()}
    for other, tensor in others.items():
        values[other] = decode_floats(tensor.map(), tensor.spec.dtype)
    return out, values


def logits(model: Any) -> NDArray[np.float32]:
    """Of the prompt and of each step after it, `[prompt and steps, vocabulary]`."""
    cache = make_prompt_cache(model)
    rows = [np.array(model(mx.array([PROMPT]), cache=cache)[0])]
    rows += [np.array(model(mx.array([[token]]), cache=cache)[0]) for token in NEXT]
    return np.concatenate(rows)


def modules_of(model: Any) -> set[str]:
    return {type(module).__name__ for _, module in model.named_modules()}


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("llama", {"BlockLinear", "BlockEmbedding"}),
        ("llama_tied", {"BlockLinear", "BlockEmbedding"}),
        ("qwen3_moe", {"BlockLinear", "BlockEmbedding", "BlockSwitchLinear"}),
        ("deepseek_v3", {"BlockLinear", "BlockSwitchLinear", "BlockMultiLinear"}),
    ],
)
def test_a_model_with_blocks_of_mixed_widths_gives_the_logits_of_its_values(
    name: str, modules: set[str], tmp_path: Path
) -> None:
    directory, values = with_mixed_blocks(name, tmp_path)
    reference: Any = build_model(json.loads((directory / "config.json").read_text()))
    reference.eval()
    reference.load_weights([(path, mx.array(array)) for path, array in values.items()])
    loaded = load(directory)
    assert modules <= modules_of(loaded.model)
    expected, found = logits(reference), logits(loaded.model)
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
