"""Quantized modules of a block-layout directory, in place in a model.

A tensor of one width is MLX's layout byte for byte, and gets MLX's module; only its biases are
computed from scales and zeros. The others get modules of ours.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map_with_path  # pyright: ignore[reportUnknownVariableType]
from numpy.typing import NDArray

from jang_format import (
    BLOCK_SIZE,
    ModelDirectory,
    QuantizedTensor,
    block_offsets,
    decode_floats,
)
from jang_runtime import architecture
from jang_runtime._backend import Backend
from jang_runtime._blocks.matrices import BlockMatrices, block_matrices
from jang_runtime._blocks.names import find_modules
from jang_runtime._blocks.operations import operations_for
from jang_runtime._errors import ModelError

_LARGEST_F16: Final = 65504.0
# What a stack of separate tensors is joined from; the maps follow from the widths.
_JOINED: Final = ("qweight", "scales", "zeros", "biases")

Weights = dict[str, mx.array]


@dataclass(frozen=True)
class _Stored:
    """What the file has for a module: one tensor, or one for each expert.

    Attributes:
        name: Its path in the file; the first one of a stack.
        tensors: Descriptions.
        arrays: Flat companions, joined, by the last part of their names.
        shape: Shape of all values together.
    """

    name: str
    tensors: tuple[QuantizedTensor, ...]
    arrays: Weights
    shape: tuple[int, ...]

    @property
    def bits(self) -> int | None:
        """Width of all codes; None where blocks differ."""
        widths = {tensor.bits for tensor in self.tensors}
        return widths.pop() if len(widths) == 1 else None

    @property
    def group_size(self) -> int | None:
        """Size of all blocks; None where tensors of a stack differ."""
        sizes = {tensor.group_size for tensor in self.tensors}
        return sizes.pop() if len(sizes) == 1 else None

    def widths(self) -> NDArray[np.uint8]:
        """Width of each block, uint8 `[blocks]`."""
        return np.concatenate([tensor.bit_map.reshape(-1) for tensor in self.tensors])


def place_blocks(
    model: nn.Module, directory: ModelDirectory, tensors: Weights, backend: Backend
) -> tuple[Weights, dict[str, Any]]:
    """Put block modules into a model.

    Returns:
        All weights of the model by parameter path, and `quantization` of the modules that MLX's own
        layout serves.

    Raises:
        ModelError: If the tensors are not those of the model, or are of an old form.
    """
    quantized = {path: directory.quantized(path) for path in directory.quantized_paths()}
    others = {name: tensors[name] for name in tensors.keys() - directory.quantized_names()}
    weights, found = find_modules(model, others, quantized)
    shapes = architecture.quantizable_modules(model)
    dtype = mx.float32 if backend == "cpu" else _common_dtype(weights)
    entries: dict[str, Any] = {}
    matrices: dict[str, BlockMatrices] = {}
    for path, names in found.items():
        stored = _stored(names, quantized, tensors)
        if shapes.get(path) != stored.shape:
            wanted = f"{list(shapes[path])}" if path in shapes else "no such module"
            raise ModelError(f"{stored.name}: found {list(stored.shape)}, expected {wanted}")
        if _fits_mlx(stored, dtype):
            entries[path] = {"group_size": stored.group_size, "bits": stored.bits, "mode": "affine"}
            own_dtype = stored.arrays["scales"].dtype
            placed = _mlx_arrays(stored, mx.float32 if backend == "cpu" else own_dtype)
        else:
            matrices[path] = _block_matrices(stored)
            placed = matrices[path].companions()
        weights |= {f"{path}.{part}": array for part, array in placed.items()}
    _replace_modules(model, matrices, dtype, backend)
    return weights, entries


def _stored(names: list[str], quantized: dict[str, QuantizedTensor], tensors: Weights) -> _Stored:
    described = tuple(quantized[name] for name in names)
    parts = {name: _parts_of(name, tensors) for name in names}
    first = names[0]
    if len(names) == 1:
        return _Stored(first, described, parts[first], described[0].shape)
    shapes = {tensor.shape for tensor in described}
    if len(shapes) != 1 or len(described[0].shape) != 2:
        raise ModelError(f"{first}: found shapes {sorted(shapes)} in one stack, expected one shape")
    arrays = {
        part: mx.concatenate([parts[name][part] for name in names])
        for part in _JOINED
        if all(part in parts[name] for name in names)
    }
    return _Stored(first, described, arrays, (len(names), *described[0].shape))


def _parts_of(name: str, tensors: Weights) -> Weights:
    prefix = f"{name}."
    return {
        full.removeprefix(prefix): mx.reshape(array, (-1,))
        for full, array in tensors.items()
        if full.startswith(prefix)
    }


def _common_dtype(weights: Weights) -> mx.Dtype:
    """The type of most tensors that are not quantized: that of the vectors between modules."""
    floating = [
        array.dtype for array in weights.values() if mx.issubdtype(array.dtype, mx.floating)
    ]
    return Counter(floating).most_common(1)[0][0] if floating else mx.float16


def _fits_mlx(stored: _Stored, dtype: mx.Dtype) -> bool:
    """Whether MLX's own modules can use the tensors as they are."""
    group_size = stored.group_size
    if stored.bits is None or group_size is None or stored.shape[-1] % group_size:
        return False
    if "biases" in stored.arrays:
        return True
    # With float16 scales MLX would take bfloat16 vectors to float32 from here on.
    return dtype != mx.bfloat16 and all(_has_f16_biases(tensor) for tensor in stored.tensors)


def _has_f16_biases(tensor: QuantizedTensor) -> bool:
    if tensor.zeros is None:
        return False
    scales, zeros = (decode_floats(each, tensor.dtype) for each in (tensor.scales, tensor.zeros))
    return bool(np.abs(scales * zeros).max(initial=0) <= _LARGEST_F16)


def _mlx_arrays(stored: _Stored, dtype: mx.Dtype) -> Weights:
    """Weight, scales and biases of MLX layout.

    On the CPU the last two are float32: biases are exact then, and take the place of the maps.
    """
    *leading, columns = stored.shape
    scales = stored.arrays["scales"]
    if "biases" in stored.arrays:
        biases = stored.arrays["biases"]
    else:
        # 0 - x rather than -x: no negative zero where the zero point is 0.
        biases = 0 - scales.astype(mx.float32) * stored.arrays["zeros"].astype(mx.float32)
    words = stored.arrays["qweight"].view(mx.uint32)
    return {
        "weight": mx.reshape(words, (*leading, columns * (stored.bits or 0) // 32)),
        "scales": mx.reshape(scales.astype(dtype), (*leading, -1)),
        "biases": mx.reshape(biases.astype(dtype), (*leading, -1)),
    }


def _block_matrices(stored: _Stored) -> BlockMatrices:
    """The matrices of a module that MLX's layout does not serve."""
    if any(
        tensor.zeros is None or tensor.dtype != "F16" or tensor.group_size != BLOCK_SIZE
        for tensor in stored.tensors
    ):
        raise ModelError(
            f"{stored.name}: found an old form of blocks, expected blocks of {BLOCK_SIZE} with "
            "zeros; jang-format convert DIR OUT --layout mlx --requantize keeps its values"
        )
    widths = stored.widths()
    maps = {"bit_map": mx.array(widths), "block_offsets": mx.array(block_offsets(widths))}
    return block_matrices(maps | stored.arrays, widths, stored.shape)


def _replace_modules(
    model: nn.Module, matrices: dict[str, BlockMatrices], dtype: mx.Dtype, backend: Backend
) -> None:
    from jang_runtime._blocks.modules import BLOCK_MODULES  # mlx-lm: two seconds

    def replace(path: str, module: Any) -> Any:
        if path not in matrices:
            return module
        block_class = BLOCK_MODULES.get(cast(type[nn.Module], type(module)))
        if block_class is None:
            raise ModelError(
                f"{path}: found blocks of several widths in a {type(module).__name__}, expected "
                f"one of {', '.join(known.__name__ for known in BLOCK_MODULES)}"
            )
        operations = operations_for(matrices[path], backend)
        return block_class(matrices[path], operations, dtype, module.get("bias"))

    open_model = cast(Any, model)  # its methods are open in mlx's stubs
    leaves = open_model.leaf_modules()
    open_model.update_modules(tree_map_with_path(replace, leaves, is_leaf=open_model.is_module))
