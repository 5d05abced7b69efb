"""How far models are from their reference: KL divergence on text, all of them window by window."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_format import dequantize, read_directory
from jang_quant import Source
from jang_runtime.architecture import build_model, quantizable_modules

Logits = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Divergence:
    """What windows of text say of a model.

    Attributes:
        kl: Mean KL(reference || model) over the positions of each window, in nats.
        perplexity: Of the text.
        agreement: Share of positions where both find the same token most likely.
    """

    kl: tuple[float, ...]
    perplexity: float
    agreement: float

    @property
    def mean(self) -> float:
        """Mean KL divergence over all positions."""
        return float(np.mean(self.kl))


def reference_model(source: Source, weights: Mapping[str, NDArray[Any]] | None = None) -> Logits:
    """The source's model in float32, some of its weights replaced."""
    model = build_model(source.config)
    given = weights or {}
    arrays = [
        (path, mx.array(given[path] if path in given else tensor.read()))
        for path, tensor in source.tensors.items()
    ]
    cast(Any, model).load_weights(arrays)
    mx.eval(model.parameters())  # pyright: ignore[reportUnknownMemberType] - open in mlx's stubs
    return cast(Logits, model)


def converted_model(source: Source, directory: Path) -> Logits:
    """A converted model with its weights dequantized, which multiplies faster on a CPU."""
    opened = read_directory(directory)
    paths = opened.quantized_paths()
    return reference_model(
        source, {f"{path}.weight": dequantize(opened.quantized(path)) for path in paths}
    )


def uniform_model(source: Source, bits: int) -> Logits:
    """MLX's own quantization, all modules alike in groups of 64."""
    weights: dict[str, NDArray[Any]] = {}
    for path in quantizable_modules(build_model(source.config)):
        name = f"{path}.weight"
        parts = mx.quantize(mx.array(source.tensors[name].read()), group_size=64, bits=bits)
        weights[name] = np.array(mx.dequantize(*parts, group_size=64, bits=bits))
    return reference_model(source, weights)


def measure(
    reference: Logits,
    models: Mapping[str, Logits],
    windows: NDArray[np.int32],
    on_window: Callable[[int], None] = lambda done: None,
) -> dict[str, Divergence]:
    """Run windows `[n, length]` through all models, the reference among the results."""
    everyone = {"reference": reference, **models}
    kl: dict[str, list[float]] = {name: [] for name in everyone}
    losses: dict[str, list[float]] = {name: [] for name in everyone}
    agreements: dict[str, list[float]] = {name: [] for name in everyone}
    for done, window in enumerate(windows, 1):
        tokens = mx.array(window)[None]
        expected = _log_probabilities(reference, tokens)
        likely = mx.exp(expected)
        for name, model in everyone.items():
            found = expected if model is reference else _log_probabilities(model, tokens)
            kl[name].append(_number(mx.mean(mx.sum(likely * (expected - found), axis=-1))))
            same = mx.argmax(found, axis=-1) == mx.argmax(expected, axis=-1)
            agreements[name].append(_number(mx.mean(same)))
            following = mx.take_along_axis(found[:-1], tokens[0, 1:, None], axis=-1)
            losses[name].append(-_number(mx.mean(following)))
        on_window(done)
    return {
        name: Divergence(
            kl=tuple(kl[name]),
            perplexity=math.exp(float(np.mean(losses[name]))),
            agreement=float(np.mean(agreements[name])),
        )
        for name in everyone
    }


def _log_probabilities(model: Logits, tokens: mx.array) -> mx.array:
    logits = model(tokens)[0].astype(mx.float32)
    found = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.eval(found)  # pyright: ignore[reportUnknownMemberType] - open in mlx's stubs
    return found


def _number(value: mx.array) -> float:
    return float(cast(float, value.item()))
