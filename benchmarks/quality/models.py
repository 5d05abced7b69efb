"""Models in float32 to be measured: the source, what a directory holds, and parts exchanged."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_format import StoredTensor, decode_floats, dequantize, read_directory
from jang_quant import Source
from jang_runtime.architecture import build_model, quantizable_modules

Logits = Callable[[mx.array], mx.array]
Weights = Mapping[str, mx.array]


@dataclass(frozen=True)
class Size:
    """What a directory weighs.

    Attributes:
        nbytes: Of its weight files.
        bits_per_weight: Over all matrices, the embedding included, with scales and biases.
    """

    nbytes: int
    bits_per_weight: float


def arrays_of(reads: Mapping[str, Callable[[], NDArray[np.float32]]]) -> dict[str, mx.array]:
    """Values that are read, or computed, on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {name: pool.submit(read) for name, read in reads.items()}
        return {name: mx.array(values.result()) for name, values in running.items()}


def source_weights(source: Source) -> Weights:
    """All parameters of a source."""
    return arrays_of({path: tensor.read for path, tensor in source.tensors.items()})


def directory_weights(directory: Path) -> Weights:
    """All parameters as the files of a directory give them, whoever wrote it."""
    opened = read_directory(directory)
    names = opened.quantized_names()
    reads: dict[str, Callable[[], NDArray[np.float32]]] = {
        name: partial(_floats, tensor)
        for name, tensor in opened.tensors.items()
        if name not in names
    }
    for path in opened.quantized_paths():
        reads[f"{path}.weight"] = partial(dequantize, opened.quantized(path))
    return arrays_of(reads)


def _floats(tensor: StoredTensor) -> NDArray[np.float32]:
    return decode_floats(tensor.map(), tensor.spec.dtype)


def model_of(config: Mapping[str, Any], weights: Weights) -> Logits:
    """The model of a config with these weights, all of them."""
    model = build_model(config)
    cast(Any, model).load_weights(list(weights.items()))
    mx.eval(model.parameters())  # pyright: ignore[reportUnknownMemberType] - open in mlx's stubs
    return cast(Logits, model)


def matrices(config: Mapping[str, Any]) -> dict[str, int]:
    """Number of weights of each matrix of a model, by module path."""
    shapes = quantizable_modules(build_model(config))
    return {path: rows * columns for path, (rows, columns) in shapes.items()}


def size_of(directory: Path, config: Mapping[str, Any]) -> Size:
    """What a directory of a model with this config weighs."""
    opened = read_directory(directory)
    counts = matrices(config)
    stored = sum(
        tensor.spec.nbytes
        for name, tensor in opened.tensors.items()
        if name.rpartition(".")[0] in counts
    )
    return Size(opened.weight_bytes, 8 * stored / sum(counts.values()))
