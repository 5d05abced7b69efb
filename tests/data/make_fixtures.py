"""Writes the tiny directories beside it; run by hand: `uv run python tests/data/make_fixtures.py`.

Random codes, scales, biases and zeros are chosen first; what they stand for and which logits come
of that is computed here in float64. Nothing of jang_format is used: this is the second opinion.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from forward import logits
from packing import (
    Floats,
    Module,
    Stored,
    block_parts,
    mlx_parts,
    random_module,
    storable,
    stored_floats,
)
from recipes import RECIPES, VOCABULARY, Recipe
from safetensors import TensorSpec, serialize_file

HERE = Path(__file__).parent


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each quantized module, by path."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCABULARY, hidden)}
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        found[f"{path}.self_attn.q_proj"] = (queries, hidden)
        found[f"{path}.self_attn.k_proj"] = (keys, hidden)
        found[f"{path}.self_attn.v_proj"] = (keys, hidden)
        found[f"{path}.self_attn.o_proj"] = (hidden, queries)
        experts: tuple[int, ...] = ()
        mlp = f"{path}.mlp"
        if config["model_type"] == "mixtral":
            experts, mlp = (config["num_local_experts"],), f"{path}.block_sparse_moe.switch_mlp"
        found[f"{mlp}.gate_proj"] = (*experts, inner, hidden)
        found[f"{mlp}.up_proj"] = (*experts, inner, hidden)
        found[f"{mlp}.down_proj"] = (*experts, hidden, inner)
    if not config["tie_word_embeddings"]:
        found["lm_head"] = (VOCABULARY, hidden)
    return found


def split_experts(modules: dict[str, Module]) -> dict[str, Module]:
    """Each expert under the name that Mixtral's authors gave it."""
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    found: dict[str, Module] = {}
    for path, module in modules.items():
        parent, _, leaf = path.rpartition(".")
        if not parent.endswith("switch_mlp"):
            found[path] = module
            continue
        experts = parent.removesuffix("switch_mlp") + "experts"
        for number in range(len(module.codes)):
            found[f"{experts}.{number}.{names[leaf]}"] = module.expert(number)
    return found


def unquantized(random: np.random.Generator, recipe: Recipe) -> dict[str, Floats]:
    """Norms, and what chooses between experts, by path."""
    config = recipe.config
    layers = [f"model.layers.{layer}" for layer in range(config["num_hidden_layers"])]
    found = {"model.norm": random.uniform(0.5, 1.5, config["hidden_size"])}
    for path in layers:
        found[f"{path}.input_layernorm"] = random.uniform(0.5, 1.5, config["hidden_size"])
        found[f"{path}.post_attention_layernorm"] = random.uniform(0.5, 1.5, config["hidden_size"])
        if config["model_type"] == "mixtral":
            router = (config["num_local_experts"], config["hidden_size"])
            found[f"{path}.block_sparse_moe.gate"] = random.normal(size=router) / 8
    return {path: storable(values, recipe.dtype) for path, values in found.items()}


def write(recipe: Recipe, seed: int) -> None:
    """One directory."""
    random = np.random.default_rng(seed)
    modules: dict[str, Module] = {}
    for number, (path, shape) in enumerate(shapes(recipe.config).items()):
        widths, group_size = recipe.choose(number)
        modules[path] = random_module(
            random, shape, widths, group_size, recipe.dtype, "zeros" in recipe.companions
        )
    plain = unquantized(random, recipe)
    ids = random.permutation(VOCABULARY).tolist()
    values = {path: module.values() for path, module in modules.items()}
    expected = logits(recipe.config, values | plain, ids)

    directory = HERE / recipe.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    stored_modules = split_experts(modules) if recipe.separate_experts else modules
    groups = [store(path, module, recipe) for path, module in stored_modules.items()]
    groups += [{f"{path}.weight": stored_floats(v, recipe.dtype)} for path, v in plain.items()]
    write_weights(directory, recipe, groups)
    config = recipe.config
    if not recipe.companions:
        config = config | {"quantization": quantization(recipe, stored_modules)}
    write_json(directory / "config.json", config)
    if recipe.manifest is not None:
        write_json(directory / recipe.manifest_file, {"format": "jang"} | recipe.manifest)
    rows = ",\n".join(json.dumps(row) for row in expected.round(5).tolist())
    text = f'{{"ids": {json.dumps(ids)},\n"logits": [\n{rows}\n]}}\n'
    (directory / "expected.json").write_text(text)


def store(path: str, module: Module, recipe: Recipe) -> Stored:
    """The tensors of a module by name."""
    if recipe.companions:
        parts = block_parts(module, recipe.companions, recipe.dtype)
    else:
        parts = mlx_parts(module, recipe.dtype)
    return {f"{path}.{part}": tensor for part, tensor in parts.items()}


def quantization(recipe: Recipe, modules: dict[str, Module]) -> dict[str, Any]:
    """The entry in config.json."""
    entries: dict[str, Any] = {}
    for path, module in modules.items():
        bits = int(module.widths.flat[0])
        entries[path] = {"group_size": module.group_size, "bits": bits, "mode": "affine"}
    return recipe.top | (entries if recipe.has_entries else {})


def write_weights(directory: Path, recipe: Recipe, groups: list[Stored]) -> None:
    """The weight files and their index; the tensors of a module stay together."""
    weight_map: dict[str, str] = {}
    total = 0
    for number in range(recipe.shards):
        name = recipe.shard.format(number=number + 1, count=recipe.shards)
        tensors: Stored = {}
        for group in groups[number :: recipe.shards]:
            tensors |= group
        arrays = {key: np.ascontiguousarray(array) for key, (_, array) in tensors.items()}
        # safetensors.numpy.save_file does just this, and knows no bfloat16.
        specs = {
            key: TensorSpec(
                dtype=tensors[key][0],
                shape=array.shape,
                data_ptr=array.ctypes.data,
                data_len=array.nbytes,
            )
            for key, array in arrays.items()
        }
        metadata = {"format": "jang" if recipe.companions else "mlx"}
        serialize_file(specs, directory / name, metadata=metadata)
        weight_map |= dict.fromkeys(sorted(arrays), name)
        total += sum(array.nbytes for array in arrays.values())
    if recipe.index is not None:
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / recipe.index, content)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Indented by one, for people who look."""
    file.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Write them all anew."""
    for seed, recipe in enumerate(RECIPES):
        write(recipe, seed)


if __name__ == "__main__":
    main()
