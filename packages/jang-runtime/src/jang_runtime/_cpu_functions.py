"""MLX's functions on the CPU, computed by the compiled kernels.

Models of all architectures call `mx.fast.rope`, `mx.fast.rms_norm`,
`mx.fast.scaled_dot_product_attention` and mlx-lm's `swiglu`, which MLX's Linux CPU backend computes
without vector instructions. While a model of ours builds its graph, these names stand for the
kernels; before and after they are MLX's. So no architecture needs code of its own, and other models
of the process are left alone.
"""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn

from jang_runtime._cpu_layers import adopt
from jang_runtime._native import cpu_kernels

Function = Callable[..., mx.array]

_SWIGLU: Final = "swiglu"

_MLX: Final[dict[str, Function]] = {
    name: cast(Function, getattr(mx.fast, name))
    for name in ("rms_norm", "rope", "scaled_dot_product_attention")
}


def _rms_norm(x: mx.array, weight: mx.array | None, eps: float, **rest: Any) -> mx.array:
    native = cpu_kernels()
    weighted = weight is None or weight.dtype == mx.float32
    if native is None or x.dtype != mx.float32 or not weighted or rest:
        return _MLX["rms_norm"](x, weight, eps, **rest)
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
        return _MLX["rope"](
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
        return _MLX["scaled_dot_product_attention"](
            q, k, v, scale=scale, mask=mask, sinks=sinks, **rest
        )
    causal = isinstance(mask, str)
    return native.attention(q, k, v, scale, causal, None if causal else mask, sinks)


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    native = cpu_kernels()
    if native is None or not gate.dtype == x.dtype == mx.float32 or gate.shape != x.shape:
        return gate * mx.sigmoid(gate) * x
    return native.swiglu(gate, x)


_OURS: Final[dict[str, Function]] = {
    "rms_norm": _rms_norm,
    "rope": _rope,
    "scaled_dot_product_attention": _attention,
}


def with_cpu_functions(model: nn.Module) -> nn.Module:
    """The model, with the kernels' functions in place while it is called."""
    from mlx_lm.models import activations

    original = activations.swiglu
    parts = cast(list[nn.Module], model.modules())
    modules = {sys.modules[type(part).__module__] for part in parts}
    users = [module for module in modules if getattr(module, _SWIGLU, None) is original]
    model_class = cast(Any, type(model))

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        with _functions_in_place(users, original):
            return model_class.__call__(self, *arguments, **named)

    return adopt(type(model_class.__name__, (model_class,), {"__call__": call}), model)


@contextmanager
def _functions_in_place(users: Sequence[ModuleType], swiglu: Function) -> Generator[None]:
    """Names stand for our functions inside, and for MLX's afterwards.

    Another thread that leaves first takes ours away early: results stay the same, only slower.
    """
    for name, function in _OURS.items():
        setattr(mx.fast, name, function)
    for module in users:
        setattr(module, _SWIGLU, _swiglu)
    try:
        yield
    finally:
        for name, function in _MLX.items():
            setattr(mx.fast, name, function)
        for module in users:
            setattr(module, _SWIGLU, swiglu)
