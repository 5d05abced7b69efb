"""The MLX model of a config: its modules, without weights.

Names and shapes are those of mlx-lm's model classes, so whatever is derived from them fits what
stock MLX programs load.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]

from jang_format import first_line
from jang_runtime._errors import ModelError

# How transformers writes these into config.json: {"__float__": "Infinity"}.
_FLOAT_KEY: Final = "__float__"
_NON_FINITE: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}

# What mlx-lm's classes raise for configs and checkpoints that are not theirs.
_FAULTS: Final = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ZeroDivisionError,
)


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

    # Some classes change the config that they are given.
    own = cast(dict[str, Any], _plain(config))
    try:
        # The only public way to a model class loads weights as well.
        model_class, arguments_class = utils._get_classes(own)  # pyright: ignore[reportPrivateUsage]
        return cast(nn.Module, model_class(arguments_class.from_dict(own)))
    except _FAULTS as error:
        reason = first_line(error, named=True)
        raise ModelError(
            f"config.json: {config['model_type']}: mlx-lm cannot build it ({reason})"
        ) from error


def _plain(value: Any) -> Any:
    """A copy of a config's value, with numbers for the tags of non-finite ones."""
    if isinstance(value, Mapping):
        entries = cast(Mapping[str, Any], value)
        if list(entries) == [_FLOAT_KEY] and entries[_FLOAT_KEY] in _NON_FINITE:
            return _NON_FINITE[entries[_FLOAT_KEY]]
        return {key: _plain(entry) for key, entry in entries.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in cast(list[Any], value)]
    return value


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


def keeps_precision(model: nn.Module, path: str) -> bool:
    """Whether the model's class asks that a parameter is not rounded to 16 bits."""
    may_be_cast = getattr(model, "cast_predicate", None)
    return may_be_cast is not None and not may_be_cast(path)


def sanitize(model: nn.Module, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Names and layouts as the model wants them, from a checkpoint's; arrays stay lazy.

    Some classes drop parts of the model that the checkpoint has not, and change arrays in place.

    Raises:
        ModelError: If the model's class cannot take these tensors.
    """
    own = getattr(model, "sanitize", None)
    if own is None:
        return weights
    try:
        return cast(dict[str, mx.array], own(weights))
    except _FAULTS as error:
        reason = first_line(error, named=True)
        raise ModelError(
            f"{type(model).__module__}: mlx-lm cannot take these tensors ({reason})"
        ) from error


def read_weights(files: list[Path]) -> dict[str, mx.array]:
    """All tensors of safetensors files, lazily: values are read when evaluated."""
    weights: dict[str, mx.array] = {}
    for file in files:
        weights.update(cast(dict[str, mx.array], mx.load(str(file))))
    return weights
