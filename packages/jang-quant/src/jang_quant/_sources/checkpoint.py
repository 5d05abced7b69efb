"""The tensors of weight files as the MLX model wants them, computed one at a time."""

import io
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_format import STORAGE, StoredTensor, first_line
from jang_quant._errors import SourceError
from jang_quant._sources.prequantized import (
    Arrays,
    Prequantization,
    undo_after_sanitize,
    undo_before_sanitize,
)
from jang_quant._sources.source import SourceTensor, Stamp, refuse_changes, stamp_of
from jang_quant._sources.tensor_forms import known_forms
from jang_runtime.architecture import build_model, parameter_shapes, read_weights, sanitize

_DTYPES: Final = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}


@dataclass(frozen=True)
class CheckpointFiles:
    """Weight files and what is needed to make sense of them.

    Attributes:
        directory: Where they lie.
        config: As mlx-lm reads it.
        files: The files.
        stored: What the files hold, by the checkpoint's names.
        quantization: How the checkpoint is quantized; None in full precision.
    """

    directory: Path
    config: Mapping[str, Any]
    files: list[Path]
    stored: Mapping[str, StoredTensor]
    quantization: Prequantization | None


def open_tensors(checkpoint: CheckpointFiles) -> dict[str, SourceTensor]:
    """The tensors by parameter path of the MLX model; none is read yet.

    Names, stacked experts, transposed convolutions and shifted norms are those of `sanitize` of
    mlx-lm's model class.

    Raises:
        SourceError: If tensors are missing, of a wrong shape or type, or not the model's.
        ModelError: If mlx-lm has no class for the model, or its class cannot take the tensors.
    """
    stamps = {file: stamp_of(file) for file in checkpoint.files}
    arrays, unchanged = _lazy_arrays(checkpoint)
    described = {path: (tuple(array.shape), _DTYPES[array.dtype]) for path, array in arrays.items()}
    reader = _Reader(lambda: _lazy_arrays(checkpoint)[0], arrays, stamps)

    def load(path: str) -> tuple[NDArray[Any], str]:
        name = unchanged.get(path)
        return reader.load(path) if name is None else reader.map(checkpoint.stored[name])

    return {
        path: SourceTensor(shape=shape, dtype=dtype, load=lambda path=path: load(path))
        for path, (shape, dtype) in described.items()
    }


class _Reader:
    """Computes each array when it is asked for, and keeps none.

    A lazy array that was computed holds its values from then on, and so does whatever it was
    computed from; so each is handed out once and dropped. Whoever asks again finds it in a second
    opening of the files, and so does another thread: MLX computes an array only where it was built.
    """

    def __init__(
        self, open_arrays: Callable[[], Arrays], arrays: Arrays, stamps: Mapping[Path, Stamp | None]
    ) -> None:
        self._open = open_arrays
        self._stamps = stamps
        # Two, so that everything can be read twice in a row without opening the files each time.
        self._openings = deque([arrays], maxlen=2)
        self._thread = threading.current_thread()

    def load(self, path: str) -> tuple[NDArray[Any], str]:
        """The values of a tensor, exactly, and how they are there."""
        array = self._take(path)
        dtype = _DTYPES[array.dtype]
        try:
            with mx.stream(mx.cpu):
                raw = array.view(mx.uint16) if dtype == "BF16" else array
                stored = cast(NDArray[Any], np.asarray(raw))
        except RuntimeError as error:
            raise SourceError(f"{path}: cannot be read ({error})") from error
        # MLX says nothing of a file that ends early; what it did not read is anything.
        refuse_changes(self._stamps)
        return stored, dtype

    def map(self, tensor: StoredTensor) -> tuple[NDArray[Any], str]:
        """The values of a tensor as they lie in its file, which costs no copy.

        In a map of its own, which goes when the values do.
        """
        refuse_changes(self._stamps)
        spec = tensor.spec
        values = np.memmap(tensor.file, STORAGE[spec.dtype], "r", tensor.offset, spec.shape)
        return values.view(np.ndarray), spec.dtype

    def _take(self, path: str) -> mx.array:
        # Not by its number, which another thread may have had.
        if threading.current_thread() is not self._thread:
            self._thread = threading.current_thread()
            self._openings.clear()
        opening = next((arrays for arrays in self._openings if path in arrays), None)
        if opening is None:
            opening = self._open()
            self._openings.append(opening)
        return opening.pop(path)


def _lazy_arrays(checkpoint: CheckpointFiles) -> tuple[Arrays, dict[str, str]]:
    """The model's arrays by path, and the names of those that are a file's tensors as they are."""
    # Not on a GPU: it has no use for the source, and limits on the size of one array.
    with mx.stream(mx.cpu):
        model = build_model(checkpoint.config)
        try:
            weights = read_weights(checkpoint.files)
        except RuntimeError as error:
            raise SourceError(
                f"{checkpoint.directory}: MLX cannot read it ({first_line(error)})"
            ) from error
        names = {id(array): name for name, array in weights.items()}
        read = list(weights.values())
        weights = undo_before_sanitize(weights, checkpoint.stored, checkpoint.quantization)
        weights = known_forms(weights, checkpoint.config["model_type"])
        arrays = sanitize(model, weights)
        expected = parameter_shapes(model)
        arrays = undo_after_sanitize(checkpoint.directory, arrays, expected)
    _check_complete(checkpoint.directory, arrays, expected)
    # In the model's order, in which they are read: arrays made from one are next to each other.
    ordered = {path: arrays[path] for path in expected}
    unchanged = {
        path: names[id(array)]
        for path, array in ordered.items()
        if id(array) in names and _is_read_only(array)
    }
    # Until here, so that no other array could have the number of one of them.
    read.clear()
    return ordered, unchanged


def _is_read_only(array: mx.array) -> bool:
    """Whether an array is nothing but what a file holds; classes change some arrays in place."""
    with io.StringIO() as graph:
        cast(Any, mx).export_to_dot(graph, array)
        return _NODES.findall(graph.getvalue()) == ["Load"]


# The operations in a graph as MLX draws it.
_NODES: Final = re.compile(r'label ="([^"]*)", shape=rectangle')


def _check_complete(
    directory: Path, arrays: Mapping[str, mx.array], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = sorted(expected.keys() - arrays.keys())
    if missing:
        raise SourceError(
            f"{directory}: {missing[0]}: found no such tensor, expected {len(expected)} "
            f"({len(missing)} are missing)"
        )
    surplus = sorted(arrays.keys() - expected.keys())
    if surplus:
        raise SourceError(
            f"{directory}: {surplus[0]}: found a tensor that the model does not have "
            f"({len(surplus)} such)"
        )
    for path, shape in expected.items():
        found = tuple(arrays[path].shape)
        if found != shape:
            raise SourceError(f"{directory}: {path}: found shape {found}, expected {shape}")
        if arrays[path].dtype not in _DTYPES:
            kind = str(arrays[path].dtype).removeprefix("mlx.core.")
            raise SourceError(
                f"{directory}: {path}: found {kind}, expected one of {', '.join(_DTYPES.values())}"
            )
