"""Which tensors of a block-layout directory belong to which module of a model.

The names are those of mlx-lm's modules, or, in old directories, those of the checkpoint, which the
model's class renames and stacks. It is shown a mark in place of each quantized tensor, and where
the marks end up says what it did.
"""

from collections.abc import Mapping
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from jang_format import QuantizedTensor
from jang_runtime import architecture
from jang_runtime._errors import ModelError

# A mark's shape: nothing that is turned or cut keeps it.
_MARK = (1, 2)


def find_modules(
    model: nn.Module, others: dict[str, mx.array], quantized: Mapping[str, QuantizedTensor]
) -> tuple[dict[str, mx.array], dict[str, list[str]]]:
    """The tensors that are not quantized as the model wants them, and where the quantized belong.

    Args:
        model: The model.
        others: Tensors of the directory that are not quantized, by name.
        quantized: Those that are, by path in the directory.

    Returns:
        Weights by parameter path, and for each module path the paths in the directory: one, or
        those of the experts that are stacked.

    Raises:
        ModelError: If the model's class does more with quantized tensors than to rename or to stack
            them.
    """
    paths = list(quantized)
    marks = {
        f"{path}.weight": mx.full((*quantized[path].shape[:-2], *_MARK), number, mx.float32)
        for number, path in enumerate(paths)
    }
    kept = {id(array) for array in others.values()}
    weights = architecture.sanitize(model, others | marks)
    found: dict[str, list[str]] = {}
    for name, array in list(weights.items()):
        if id(array) in kept or array.dtype != mx.float32 or array.shape[-2:] != _MARK:
            continue
        numbers = cast(list[float], np.array(array)[..., 0, 0].reshape(-1).tolist())
        members = list(dict.fromkeys(paths[int(number)] for number in numbers))
        found[name.removesuffix(".weight")] = members
        del weights[name]
    missing = set(paths).difference(*found.values())
    if missing:
        raise ModelError(
            f"{min(missing)}: found blocks of a tensor that {type(model).__module__} rebuilds on "
            "loading or does not have, expected the tensors of its modules"
        )
    return weights, found
