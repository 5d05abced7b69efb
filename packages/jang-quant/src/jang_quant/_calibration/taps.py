"""Taps on a model's modules: what goes into them, and the gradients that come back."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten  # pyright: ignore[reportUnknownVariableType]

_INTEGERS: Final = (mx.int32, mx.uint32, mx.int64)


@dataclass(frozen=True)
class Visit:
    """One call of a module.

    Attributes:
        path: The module; a tied embedding at work as the head is another one, see `head_of`.
        stack: How many matrices its weight is; 1 for one alone.
        apply: What the module does with its input.
        x: Its input: token numbers, or values `[..., in]`.
        experts: Which matrix each input goes to, for a stack whose inputs choose.
        transposed: Whether the weight is used the other way round, from its outputs to its inputs.
    """

    path: str
    stack: int
    apply: Callable[[mx.array], mx.array]
    x: mx.array
    experts: mx.array | None = None
    transposed: bool = False

    @property
    def looks_up(self) -> bool:
        """Whether the input is token numbers."""
        return self.x.dtype in _INTEGERS


# Sees every call of a tapped module, and returns `apply(x)`, or what is to be taken for it.
Observer = Callable[[Visit], mx.array]


class _Tap(nn.Module):
    """Stands in for a module and lets an observer see its calls."""

    def __init__(self, inner: nn.Module, path: str, observe: Observer) -> None:
        super().__init__()
        self.inner = inner
        self._path = path
        self._observe = observe

    def __call__(self, x: mx.array, *arguments: Any, **named: Any) -> mx.array:
        call = cast(Callable[..., mx.array], self.inner)
        weight = cast(mx.array, cast(Any, self.inner).weight)
        experts = named.get("indices", arguments[0] if arguments else None)
        return self._observe(
            Visit(
                path=self._path,
                stack=weight.shape[0] if weight.ndim == 3 else 1,
                apply=lambda value: call(value, *arguments, **named),
                x=x,
                experts=experts if isinstance(experts, mx.array) else None,
                transposed=named.get("transpose") is False,
            )
        )

    def __getattr__(self, key: str) -> Any:
        """What the model asks of the module itself, such as its weight."""
        found = cast(dict[str, Any], self)
        if key in found:
            return found[key]
        if "inner" not in found:
            raise AttributeError(key)
        return getattr(found["inner"], key)

    def __setattr__(self, key: str, value: Any) -> None:
        """What the model changes of the module itself."""
        if key == "inner" or key.startswith("_"):
            super().__setattr__(key, value)
        else:
            setattr(self.inner, key, value)

    def as_linear(self, x: mx.array) -> mx.array:
        """A tied embedding at work as the head."""
        return self._observe(Visit(head_of(self._path), 1, cast(Any, self.inner).as_linear, x))


_HEAD: Final = "#head"


def head_of(path: str) -> str:
    """The name under which a tied embedding is observed as the head."""
    return path + _HEAD


def module_of(path: str) -> str:
    """The module that is observed under this name."""
    return path.removesuffix(_HEAD)


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
