"""Random checkpoints as they are published, for the models of architectures.json."""

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import mlx.core as mx

from jang_runtime.architecture import build_model, parameter_shapes

HERE = Path(__file__).parent
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads((HERE / "architectures.json").read_text())
NAMES: dict[str, Any] = tomllib.loads((HERE / "hf_names.toml").read_text())

Shapes = dict[str, tuple[int, ...]]


def published_shapes(name: str) -> Shapes:
    """Names and shapes of a model's tensors in its published form; hf_names.toml says how."""
    config = ARCHITECTURES[name]["config"]
    shapes: Shapes = {}
    for path, shape in parameter_shapes(build_model(config)).items():
        for tensor, its_shape in _published(name, config, path, shape).items():
            shapes[_with_prefix(name, tensor)] = its_shape
    return shapes


def _published(name: str, config: dict[str, Any], path: str, shape: tuple[int, ...]) -> Shapes:
    for rule in NAMES["rule"]:
        if name in rule.get("models", [name]) and (match := re.fullmatch(rule["pattern"], path)):
            to = match.expand(rule["to"]) if "to" in rule else None
            return {} if to is None else _reshaped(rule.get("shape"), config, to, shape)
    return {path: shape}


def _reshaped(kind: str | None, config: dict[str, Any], to: str, shape: tuple[int, ...]) -> Shapes:
    if kind is None:
        return {to: shape}
    if kind == "experts":
        return {to.replace("{expert}", str(expert)): shape[1:] for expert in range(shape[0])}
    if kind == "convolution":
        return {to: (shape[0], shape[2], shape[1])}
    if kind == "kv_b":
        heads, rank, nope = shape
        return {to: (heads * (nope + config["v_head_dim"]), rank)}
    if kind == "gate and up bias":
        return {to: (shape[0], 2 * shape[1])}
    rows = shape[1] * (2 if kind.startswith("gate and up") else 1)
    if not kind.endswith("blocks"):
        return {to: (shape[0], rows, *shape[2:])}
    blocks = (shape[0], rows, shape[2] // 32)
    return {f"{to}_blocks": (*blocks, 16), f"{to}_scales": blocks}


def _with_prefix(name: str, tensor: str) -> str:
    for prefix in NAMES["prefix"]:
        if name in prefix["models"] and tensor.startswith(prefix["from"]):
            return prefix["to"] + tensor.removeprefix(prefix["from"])
    return tensor


def random_tensors(name: str, dtype: mx.Dtype = mx.float16) -> dict[str, mx.array]:
    """Values of a size that a trained model has, so that nothing dies out or explodes."""
    shapes = published_shapes(name)
    centre = 0.0 if name in NAMES["norms_around_zero"] else 1.0
    keys = mx.random.split(mx.random.key(1), len(shapes))
    tensors = {
        tensor: _values(tensor, shape, key, centre)
        for (tensor, shape), key in zip(sorted(shapes.items()), keys, strict=True)
    }
    return {
        tensor: array if array.dtype == mx.uint8 else array.astype(dtype)
        for tensor, array in tensors.items()
    }


def _values(name: str, shape: tuple[int, ...], key: mx.array, centre: float) -> mx.array:
    if name.endswith("_blocks"):
        return mx.random.randint(0, 256, shape, key=key).astype(mx.uint8)
    if name.endswith("_scales"):
        return mx.random.randint(120, 124, shape, key=key).astype(mx.uint8)
    noise = mx.random.normal(shape, key=key)
    if name.endswith("A_log"):
        return mx.abs(noise)
    if len(shape) == 1:
        return 0.1 * noise + (0.0 if "bias" in name else centre)
    return noise / math.sqrt(shape[-1])


def write_checkpoint(directory: Path, name: str, **changes: Any) -> Path:
    """A model of architectures.json as a Hugging Face directory, in float16.

    Args:
        directory: The directory to make.
        name: The model.
        changes: Keys of the config to have other values; None takes a key away.
    """
    directory.mkdir(parents=True)
    config = ARCHITECTURES[name]["config"] | changes
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    tensors = random_tensors(name)
    tensors |= {tensor: mx.zeros((8, 4), mx.float16) for tensor in NAMES["unused"].get(name, [])}
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    return directory
