"""MLX's functions on the CPU, computed by the compiled kernels.

Models of all architectures call `mx.fast.rope`, `mx.fast.rms_norm`,
`mx.fast.scaled_dot_product_attention`, `mx.softmax`, `nn.silu` and mlx-lm's `swiglu`, which MLX's
Linux CPU backend computes without vector instructions. While a model of ours builds its graph,
these names stand for the kernels; before and after they are MLX's. So no architecture needs code of
its own, and other models of the process are left alone.
"""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn

from jang_runtime._cpu_layers import adopt
from jang_runtime._native import cpu_kernels

Function = Callable[..., mx.array]

_SWIGLU: Final = "swiglu"
_MLX_RMS_NORM: Final = mx.fast.rms_norm
_MLX_ROPE: Final = mx.fast.rope
_MLX_ATTENTION: Final = mx.fast.scaled_dot_product_attention
_MLX_SOFTMAX: Final = mx.softmax
_MLX_SILU: Final = cast(Function, nn.silu)  # pyright: ignore[reportUnknownMemberType]


def _rms_norm(x: mx.array, weight: mx.array | None, eps: float, **rest: Any) -> mx.array:
    native = cpu_kernels()
    weighted = weight is None or weight.dtype == mx.float32
    if native is None or x.dtype != mx.float32 or not weighted or rest:
        return _MLX_RMS_NORM(x, weight, eps, **rest)
    return native.rms_norm(x, weight, eps)


def _rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
    **rest: Any,
) -> mx.array:
    native = cpu_kernels()
    if native is None or x.dtype != mx.float32 or x.ndim < 3 or rest:
        return _MLX_ROPE(
            x,
            dims,
            traditional=traditional,
            base=base,
            scale=scale,
            offset=offset,
            freqs=freqs,
            **rest,
        )
    place = offset if isinstance(offset, mx.array) else mx.array(offset)
    return native.rope(x, dims, traditional, base, scale, place, freqs)


def _attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: str | mx.array | None = None,
    sinks: mx.array | None = None,
    **rest: Any,
) -> mx.array:
    native = cpu_kernels()
    floats = q.dtype == k.dtype == v.dtype == mx.float32
    if native is None or not floats or rest or (isinstance(mask, str) and mask != "causal"):
        return _MLX_ATTENTION(q, k, v, scale=scale, mask=mask, sinks=sinks, **rest)
    causal = isinstance(mask, str)
    return native.attention(q, k, v, scale, causal, None if causal else mask, sinks)


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    native = cpu_kernels()
    if native is None or not gate.dtype == x.dtype == mx.float32 or gate.shape != x.shape:
        return gate * mx.sigmoid(gate) * x
    return native.swiglu(gate, x)


def _softmax(a: mx.array, /, axis: int | Sequence[int] | None = None, **rest: Any) -> mx.array:
    native = cpu_kernels()
    is_last = axis == -1 or (isinstance(axis, int) and axis == a.ndim - 1)
    # Sums are precise here whether or not that is asked for.
    if native is None or a.dtype != mx.float32 or not is_last or a.size == 0 or "stream" in rest:
        return _MLX_SOFTMAX(a, axis, **rest)
    return native.softmax(a)


def _silu(x: mx.array) -> mx.array:
    native = cpu_kernels()
    if native is None or x.dtype != mx.float32:
        return _MLX_SILU(x)
    return native.silu(x)


@dataclass(frozen=True)
class _Replacement:
    """A name of a module, and the functions that it stands for."""

    module: ModuleType
    name: str
    mlx: Function
    ours: Function


_REPLACEMENTS: Final = (
    _Replacement(mx.fast, "rms_norm", _MLX_RMS_NORM, _rms_norm),
    _Replacement(mx.fast, "rope", _MLX_ROPE, _rope),
    _Replacement(mx.fast, "scaled_dot_product_attention", _MLX_ATTENTION, _attention),
    _Replacement(mx, "softmax", _MLX_SOFTMAX, _softmax),
    _Replacement(nn, "silu", _MLX_SILU, _silu),
)


def with_cpu_functions(model: nn.Module) -> nn.Module:
    """The model, with the kernels' functions in place while it is called."""
    replacements = (*_REPLACEMENTS, *_swiglu_of(model))
    model_class = cast(Any, type(model))

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        with _in_place(replacements):
            return model_class.__call__(self, *arguments, **named)

    return adopt(type(model_class.__name__, (model_class,), {"__call__": call}), model)


def _swiglu_of(model: nn.Module) -> list[_Replacement]:
    """mlx-lm's `swiglu` in the modules of the model's classes, which have imported it by name."""
    from mlx_lm.models.activations import swiglu

    parts = cast(list[nn.Module], model.modules())
    modules = {sys.modules[type(part).__module__] for part in parts}
    users = [module for module in modules if getattr(module, _SWIGLU, None) is swiglu]
    return [_Replacement(module, _SWIGLU, swiglu, _swiglu) for module in users]


@contextmanager
def _in_place(replacements: Sequence[_Replacement]) -> Generator[None]:
    """Names stand for our functions inside, and for MLX's afterwards.

    Another thread that leaves first takes ours away early: results stay the same, only slower.
    """
    for each in replacements:
        setattr(each.module, each.name, each.ours)
    try:
        yield
    finally:
        for each in replacements:
            setattr(each.module, each.name, each.mlx)
