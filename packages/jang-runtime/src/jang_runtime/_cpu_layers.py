"""Layers of a model on the CPU, over the packed weights of mlx-lm's own layers.

Each class takes the place of one of MLX's or mlx-lm's, with its parameters, and computes with the
compiled kernels: float32 activations, float32 sums, weights and scales as they are stored.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path  # pyright: ignore[reportUnknownVariableType]

from jang_runtime._blocks.matrices import COMPANIONS
from jang_runtime._blocks.modules import BlockModule
from jang_runtime._native import cpu_kernels

_FLOATS: Final = (mx.float32, mx.float16, mx.bfloat16)
# Parameters that the kernels read as they are stored.
_MATRIX: Final = ("weight", "scales", "biases")


def _native() -> ModuleType:
    native = cpu_kernels()
    assert native is not None, "these layers are made only where the kernels are"
    return native


class PackedLinear(nn.QuantizedLinear):
    """`nn.QuantizedLinear`: x `[..., in]` to `[..., out]`."""

    def __call__(self, x: mx.array) -> mx.array:
        """X times the packed matrix, plus the bias if there is one."""
        y = _native().packed_linear(
            x, self.weight, self.scales, self.biases, self.group_size, self.bits
        )
        return y + self.bias if "bias" in self else y


class PackedEmbedding(nn.QuantizedEmbedding):
    """`nn.QuantizedEmbedding`: token ids `[...]` to `[..., dims]`."""

    def __call__(self, x: mx.array) -> mx.array:
        """The rows of these tokens, dequantized."""
        return _native().packed_rows(
            self.weight, self.scales, self.biases, x, self.group_size, self.bits
        )

    def as_linear(self, x: mx.array) -> mx.array:
        """X `[..., dims]` times the matrix: a tied head."""
        return _native().packed_linear(
            x, self.weight, self.scales, self.biases, self.group_size, self.bits
        )


class FloatLinear(nn.Linear):
    """`nn.Linear` whose weight may have 16 bits: x `[..., in]` to `[..., out]`."""

    def __call__(self, x: mx.array) -> mx.array:
        """X times the matrix, plus the bias if there is one."""
        y = _native().float_linear(x, self.weight)
        return y + self.bias if "bias" in self else y


class FloatEmbedding(nn.Embedding):
    """`nn.Embedding` whose weight may have 16 bits: token ids `[...]` to float32 `[..., dims]`."""

    def __call__(self, x: mx.array) -> mx.array:
        """The rows of these tokens."""
        return _native().float_rows(self.weight, x)

    def as_linear(self, x: mx.array) -> mx.array:
        """X `[..., dims]` times the matrix: a tied head."""
        return _native().float_linear(x, self.weight)


def _packed_part(layer: Any, x: mx.array) -> mx.array:
    """X `[..., in]` to the outputs of this rank: `nn.QuantizedAllToShardedLinear`."""
    y = _packed_product(layer, x)
    return y + layer.bias if "bias" in layer else y


def _packed_sum(layer: Any, x: mx.array) -> mx.array:
    """X of this rank to the sum over all ranks: `nn.QuantizedShardedToAllLinear`."""
    y = mx.distributed.all_sum(_packed_product(layer, x), group=layer.group)
    return y + layer.bias if "bias" in layer else y


def _packed_product(layer: Any, x: mx.array) -> mx.array:
    return _native().packed_linear(
        x, layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits
    )


def _float_part(layer: Any, x: mx.array) -> mx.array:
    """X `[..., in]` to the outputs of this rank: `nn.AllToShardedLinear`."""
    y = _native().float_linear(x, layer.weight)
    return y + layer.bias if "bias" in layer else y


def _float_sum(layer: Any, x: mx.array) -> mx.array:
    """X of this rank to the sum over all ranks: `nn.ShardedToAllLinear`."""
    y = mx.distributed.all_sum(_native().float_linear(x, layer.weight), group=layer.group)
    return y + layer.bias if "bias" in layer else y


def _gather(layer: Any, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
    """X `[..., 1, in]` through the expert of each index, to `[..., 1, out]`.

    The axes before the last two of x and those of the indices are broadcast, as in `gather_qmm`.
    The order of the indices does not matter to these kernels.
    """
    batch = x.shape[:-2]
    if x.shape[-2] != 1:
        raise ValueError(f"x: found {x.shape}, expected one row for each index")
    # A token's row serves all of its experts without being copied for each.
    shared = batch[:-1] == indices.shape[:-1] and batch[-1:] == (1,)
    if not shared and batch != indices.shape:
        x = mx.broadcast_to(x, (*indices.shape, 1, x.shape[-1]))
    y = _native().packed_gather_linear(
        mx.flatten(x, 0, -2),
        layer.weight,
        layer.scales,
        layer.biases,
        mx.flatten(indices),
        layer.group_size,
        layer.bits,
    )
    y = mx.reshape(y, (*indices.shape, 1, -1))
    return y + mx.expand_dims(layer.bias[indices], -2) if "bias" in layer else y


def _multiply_heads(layer: Any, x: mx.array, transpose: bool = True) -> mx.array:
    """X `[..., heads, length, in]` times the matrix of each head, transposed or as it lies."""
    heads = layer.weight.shape[0]
    if x.shape[-3] != heads:
        x = mx.broadcast_to(x, (*x.shape[:-3], heads, *x.shape[-2:]))
    return _native().packed_multi_linear(
        x, layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, not transpose
    )


def use_cpu_layers(model: nn.Module) -> None:
    """Put the compiled kernels' layers in place of those that they can do."""
    replacements = _replacements()

    def replace(_: str, module: nn.Module) -> nn.Module:
        replacement = replacements.get(type(module))
        return module if replacement is None or not _fits(module) else adopt(replacement, module)

    is_module = cast(Callable[[object], bool], getattr(nn.Module, "is_module"))  # noqa: B009
    leaves = tree_map_with_path(replace, model.leaf_modules(), is_leaf=is_module)
    cast(Any, model).update_modules(leaves)


def adopt(cls: type[nn.Module], module: nn.Module) -> nn.Module:
    """A module of another class with the parameters and settings of this one."""
    adopted = cls.__new__(cls)
    nn.Module.__init__(adopted)
    # A module is a dictionary of its parameters and children; its `update` means another thing.
    for name, value in cast(dict[str, Any], module).items():
        cast(dict[str, Any], adopted)[name] = value
    adopted.__dict__.update(module.__dict__)
    return adopted


def use_float32(model: nn.Module) -> None:
    """Make float32 of every floating parameter that the layers do not read as it is stored.

    MLX's own CPU operations take sums of 16-bit numbers in 16 bits, which is too coarse.
    """
    for module in cast(list[nn.Module], model.modules()):
        parameters = cast(dict[str, Any], module)
        for name, value in list(parameters.items()):
            if not isinstance(value, mx.array) or name in _stored(module):
                continue
            if mx.issubdtype(value.dtype, mx.floating):
                parameters[name] = value.astype(mx.float32)


def _stored(module: nn.Module) -> Sequence[str]:
    """Parameters of a layer that it reads in any floating type."""
    if isinstance(module, BlockModule):
        return COMPANIONS
    return _MATRIX if type(module) in _replacements().values() else ()


@cache
def _replacements() -> dict[type[nn.Module], type[nn.Module]]:
    """Which class takes the place of which; mlx-lm's are imported here, for they take long."""
    from mlx_lm.models.mla import QuantizedMultiLinear
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear

    replacements: dict[type[nn.Module], type[nn.Module]] = {
        nn.QuantizedLinear: PackedLinear,
        nn.QuantizedEmbedding: PackedEmbedding,
        nn.Linear: FloatLinear,
        nn.Embedding: FloatEmbedding,
    }
    computed_by: dict[type[nn.Module], Callable[..., mx.array]] = {
        QuantizedSwitchLinear: _gather,
        QuantizedMultiLinear: _multiply_heads,
        nn.QuantizedAllToShardedLinear: _packed_part,
        nn.QuantizedShardedToAllLinear: _packed_sum,
        nn.AllToShardedLinear: _float_part,
        nn.ShardedToAllLinear: _float_sum,
    }
    for cls, call in computed_by.items():
        replacements[cls] = type(f"Native{cls.__name__}", (cls,), {"__call__": call})
    return replacements


def _fits(module: nn.Module) -> bool:
    """Whether the kernels can compute a layer: affine codes, or plain floats."""
    mode = getattr(module, "mode", None)
    return mode == "affine" if mode is not None else cast(Any, module).weight.dtype in _FLOATS
