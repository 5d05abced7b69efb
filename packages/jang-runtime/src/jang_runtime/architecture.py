"""The MLX model of a config: its modules, without weights.

Names and shapes are those of mlx-lm's model classes, so whatever is derived from them fits what
stock MLX programs load.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]

from jang_runtime._errors import ModelError


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The unquantized model of a config; its random weights are never computed.

    Raises:
        ModelError: If mlx-lm has no such architecture, or the config does not fit it.
    """
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"config.json: model_type: found {config.get('model_type')!r}, expected a name"
        )
    from mlx_lm import utils  # two seconds, which `--help` should not take

    try:
        # The only public way to a model class loads weights as well.
        model_class, arguments_class = utils._get_classes(dict(config))  # pyright: ignore[reportPrivateUsage]
        return cast(nn.Module, model_class(arguments_class.from_dict(dict(config))))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"config.json: {config['model_type']}: mlx-lm cannot build it ({error})"
        ) from error


def quantizable_modules(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape `[..., out, in]` of each module that can be quantized, by module path."""
    is_module = cast(Callable[[object], bool], getattr(nn.Module, "is_module"))  # noqa: B009
    leaves = cast(list[tuple[str, Any]], tree_flatten(model.leaf_modules(), is_leaf=is_module))
    return {
        path: tuple(module.weight.shape)
        for path, module in leaves
        if hasattr(module, "to_quantized")
    }


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the model, by path."""
    parameters = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
    return {path: tuple(parameter.shape) for path, parameter in parameters}


def sanitize(model: nn.Module, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Names and layouts as the model wants them, from a checkpoint's; arrays stay lazy."""
    own = getattr(model, "sanitize", None)
    return cast(dict[str, mx.array], own(weights)) if own is not None else weights


def read_weights(files: list[Path]) -> dict[str, mx.array]:
    """All tensors of safetensors files, lazily: values are read when evaluated."""
    weights: dict[str, mx.array] = {}
    for file in files:
        weights.update(cast(dict[str, mx.array], mx.load(str(file))))
    return weights
