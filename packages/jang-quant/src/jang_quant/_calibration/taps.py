"""Taps on a model's modules: what goes into them, and the gradients that come back."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten  # pyright: ignore[reportUnknownVariableType]


class Observer(Protocol):
    """Sees every call of a tapped module."""

    def __call__(self, path: str, apply: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
        """Return `apply(x)`, or what it is to be taken for."""
        ...


class _Tap(nn.Module):
    """Stands in for a module and lets an observer see its calls."""

    def __init__(self, inner: nn.Module, path: str, observe: Observer) -> None:
        super().__init__()
        self.inner = inner
        self._path = path
        self._observe = observe

    def __call__(self, x: mx.array, *arguments: Any, **named: Any) -> mx.array:
        call = cast(Callable[..., mx.array], self.inner)
        return self._observe(self._path, lambda value: call(value, *arguments, **named), x)

    def as_linear(self, x: mx.array) -> mx.array:
        """A tied embedding at work as the head."""
        return self._observe(head_of(self._path), cast(Any, self.inner).as_linear, x)


def head_of(path: str) -> str:
    """The name under which a tied embedding is observed as the head."""
    return f"{path}#head"


@contextmanager
def tapped(model: nn.Module, paths: Mapping[str, object], observe: Observer) -> Generator[None]:
    """Let an observer see the calls of these modules while the block runs."""
    is_module = cast(Callable[[object], bool], getattr(nn.Module, "is_module"))  # noqa: B009
    flat = cast(list[tuple[str, Any]], tree_flatten(model.leaf_modules(), is_leaf=is_module))
    leaves = [(path, module) for path, module in flat if path in paths]
    taps = [(path, _Tap(module, path, observe)) for path, module in leaves]
    update = cast(Callable[[Any], object], getattr(model, "update_modules"))  # noqa: B009
    update(tree_unflatten(taps))
    try:
        yield
    finally:
        update(tree_unflatten(leaves))
