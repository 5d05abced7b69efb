"""A model in stages: embedding, layers, head; each runs alone, with its own weights in memory.

The model's class is not asked how it is built. Its layers are replaced by stand-ins that note what
they are called with, and what goes from one stand-in to the next must arrive there untouched. Where
that does not hold (layers that share keys, or inputs of their own for each layer), the whole model
is one stage.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]
from numpy.typing import NDArray

from jang_quant._calibration.taps import Visit, module_of, tapped
from jang_runtime.architecture import parameter_shapes, quantizable_modules

# Tokens and what the stage before has given to what this one gives: hidden states or logits.
Run = Callable[[mx.array, mx.array], mx.array]

# What a model raises whose layers give something else than one array, or are not called in turn.
_FAULTS: Final = (ValueError, TypeError, IndexError, AttributeError, KeyError)


@dataclass(frozen=True)
class Stage:
    """A part of a model.

    Attributes:
        name: For people, such as "layer 3 of 30".
        parameters: Paths of the parameters that it needs.
        modules: Paths of its modules that can be quantized.
        run: From tokens `[1, length]` and hidden states `[1, length, ...]` to hidden states, or to
            logits. The first stage does not look at the hidden states, nor the others but the last
            at the tokens.
    """

    name: str
    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    run: Run


def stages_of(model: nn.Module, examples: NDArray[np.int32]) -> list[Stage]:
    """The stages of a model in the order in which they run.

    Args:
        model: The model; its weights are not looked at.
        examples: Two different rows of tokens of one length, `[2, length]`.
    """
    parameters = tuple(parameter_shapes(model))
    found = _find_layers(model)
    traces = None if found is None else [_trace(model, *found, row) for row in examples]
    if found is None or traces is None or not _alike(traces):
        modules = tuple(quantizable_modules(model))
        return [Stage("the model", parameters, modules, lambda tokens, _: _call(model, tokens))]
    prefix, layers = found
    trace = cast(_Trace, traces[0])
    own = [p for p in parameters if not p.startswith(f"{prefix}.")]
    first = Stage(
        "embedding",
        _without(own, trace.after - trace.before),
        tuple(sorted(trace.before)),
        _first(model, layers),
    )
    middle = [
        _layer_stage(model, f"{prefix}.{number}", layers, number, parameters, trace)
        for number in range(len(layers))
    ]
    # With the embedding, whose weight some classes take for the head without a call.
    last = Stage("head", tuple(own), tuple(sorted(trace.after)), _last(model, layers))
    return [first, *middle, last]


def _without(parameters: Sequence[str], modules: set[str]) -> tuple[str, ...]:
    """Parameters but those of some modules."""
    return tuple(path for path in parameters if path.rpartition(".")[0] not in modules)


def _layer_stage(
    model: nn.Module,
    path: str,
    layers: list[Any],
    number: int,
    parameters: Sequence[str],
    trace: "_Trace",
) -> Stage:
    arguments, named = trace.arguments[number]

    def run(tokens: mx.array, hidden: mx.array) -> mx.array:
        return _call(layers[number], hidden, *arguments, **named)

    return Stage(
        name=f"layer {number + 1} of {len(trace.arguments)}",
        parameters=tuple(p for p in parameters if p.startswith(f"{path}.")),
        modules=tuple(p for p in quantizable_modules(model) if p.startswith(f"{path}.")),
        run=run,
    )


@dataclass(frozen=True)
class _Trace:
    """How a model calls its layers.

    Attributes:
        arguments: Of each layer, without the hidden states: positional ones, and named ones.
        before: Modules called before the first layer.
        after: Modules called after the last one.
    """

    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    before: set[str]
    after: set[str]


class _StandIn:
    """Takes the calls of a layer; what else the model asks of it, the layer answers."""

    def __init__(self, layer: Any, call: Callable[..., mx.array]) -> None:
        self._layer = layer
        self._call = call

    def __call__(self, hidden: mx.array, *arguments: Any, **named: Any) -> mx.array:
        return self._call(hidden, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


@contextmanager
def _replaced(layers: list[Any], calls: Sequence[Callable[..., mx.array]]) -> Generator[None]:
    """Let these functions take the calls of the layers while the block runs."""
    kept = list(layers)
    layers[:] = [_StandIn(layer, call) for layer, call in zip(kept, calls, strict=True)]
    try:
        yield
    finally:
        layers[:] = kept


def _find_layers(model: nn.Module) -> tuple[str, list[Any]] | None:
    """The list that holds the model's layers, and its path."""
    layers = getattr(model, "layers", None)
    if not layers:
        return None
    named = cast(list[tuple[str, Any]], cast(Any, model).named_modules())
    for path, module in named:
        for key, value in module.items():
            if isinstance(value, list) and value and value[0] is layers[0]:
                return f"{path}.{key}".lstrip("."), cast(list[Any], value)
    return None


def _trace(
    model: nn.Module, prefix: str, layers: list[Any], row: NDArray[np.int32]
) -> _Trace | None:
    """Call a model whose layers give what they get; None where that cannot be."""
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    given: list[mx.array] = []
    before: set[str] = set()
    after: set[str] = set()

    def note(number: int) -> Callable[..., mx.array]:
        def call(hidden: mx.array, *positional: Any, **named: Any) -> mx.array:
            if len(given) != number or (given and hidden is not given[-1]):
                raise ValueError("layers are not called one on the result of the other")
            arguments.append((positional, named))
            # Another object, so that it is known again.
            given.append(hidden + 0)
            return given[-1]

        return call

    def observe(visit: Visit) -> mx.array:
        (after if given else before).add(module_of(visit.path))
        return visit.apply(visit.x)

    outside = {p: None for p in quantizable_modules(model) if not p.startswith(f"{prefix}.")}
    calls = [note(number) for number in range(len(layers))]
    try:
        with tapped(model, outside, observe), _replaced(layers, calls):
            _call(model, mx.array(row)[None])
    except _FAULTS:
        return None
    if len(given) != len(layers):
        return None
    return _Trace(tuple(arguments), before, after)


def _alike(traces: Sequence[_Trace | None]) -> bool:
    """Whether layers are called alike for any tokens."""
    if any(trace is None for trace in traces):
        return False
    one, other = (
        cast(list[tuple[str, Any]], tree_flatten(list(cast(_Trace, trace).arguments)))
        for trace in traces
    )
    return len(one) == len(other) and all(map(_same, one, other))


def _same(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    if isinstance(one[1], mx.array) and isinstance(other[1], mx.array):
        return one[0] == other[0] and bool(mx.array_equal(one[1], other[1]).item())
    return one == other


def _first(model: nn.Module, layers: list[Any]) -> Run:
    def run(tokens: mx.array, hidden: mx.array) -> mx.array:
        seen: list[mx.array] = []

        def call(h: mx.array, *arguments: Any, **named: Any) -> mx.array:
            seen.append(h)
            return h

        with _replaced(layers, [call] * len(layers)):
            _call(model, tokens)
        return seen[0]

    return run


def _last(model: nn.Module, layers: list[Any]) -> Run:
    def run(tokens: mx.array, hidden: mx.array) -> mx.array:
        def call(h: mx.array, *arguments: Any, **named: Any) -> mx.array:
            return hidden

        with _replaced(layers, [call] * len(layers)):
            return _call(model, tokens)

    return run


def _call(module: Any, *arguments: Any, **named: Any) -> mx.array:
    return cast(Callable[..., mx.array], module)(*arguments, **named)
