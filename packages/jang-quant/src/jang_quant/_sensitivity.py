"""How much each way to store each module would change the model's answers: the Fisher estimate.

The divergence KL(model || quantized) of a token's prediction, if one module's weights are off by D,
is about half the sum over outputs o of `E[g_o^2] (D H D^T)_oo`: H the second moments of the inputs,
g the gradients of the log-likelihood (`_calibration`). Nothing is fitted. D is that of the searched
grids; GPTQ does better, for all modules alike.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jang_format import BIT_WIDTHS, dequantize, quantized_bytes
from jang_quant._calibration.statistics import Floats, ModuleStatistics
from jang_quant._methods import mse


@dataclass(frozen=True)
class Option:
    """One way to store a module.

    Attributes:
        bits: Bits of a code.
        group_size: Weights that share scale and bias.
        nbytes: Bytes of codes, scales and biases.
        damage: Estimated divergence that it brings, in nats a token.
    """

    bits: int
    group_size: int
    nbytes: int
    damage: float


def options_of(
    weight: Floats,
    statistics: ModuleStatistics,
    group_sizes: Iterable[int],
    dtype: str,
    widths: Iterable[int] = BIT_WIDTHS,
) -> list[Option]:
    """Every way to store a module, with its damage, the smallest first.

    Args:
        weight: Its values `[out, in]`.
        statistics: What calibration knows of it.
        group_sizes: Those to try; only what divides `in` counts.
        dtype: How scales and biases are stored.
        widths: Widths to try.
    """
    moments = statistics.input_weights()
    options: list[Option] = []
    for group_size in group_sizes:
        if weight.shape[-1] % group_size:
            continue
        for bits in widths:
            off = dequantize(mse.quantize(weight, bits, group_size, dtype, moments)) - weight
            nbytes = quantized_bytes(weight.shape, bits, group_size)
            options.append(Option(bits, group_size, nbytes, damage(off, statistics)))
    return sorted(options, key=lambda option: option.nbytes)


def damage(off: Floats, statistics: ModuleStatistics) -> float:
    """Estimated divergence, in nats a token, of weights that are off by `[out, in]`."""
    total = 0.0
    if statistics.hessian is not None and statistics.gradients is not None:
        by_output = np.einsum("oi,oi->o", off @ statistics.hessian, off, dtype=np.float64)
        total += float(statistics.gradients.astype(np.float64) @ by_output)
    if statistics.lookups is not None:
        by_row = np.square(off) @ statistics.lookups.gradients
        total += float(statistics.lookups.frequencies.astype(np.float64) @ by_row)
    return total / 2


def measure(
    weights: Callable[[str], NDArray[np.float32]],
    statistics: Mapping[str, ModuleStatistics],
    group_sizes: Iterable[int],
    dtype: str,
    on_progress: Callable[[str], None] = lambda path: None,
) -> dict[str, list[Option]]:
    """The options of every module, by module path; `weights` reads a module's values."""
    sizes = tuple(group_sizes)
    table: dict[str, list[Option]] = {}
    for path, known in statistics.items():
        table[path] = options_of(weights(path), known, sizes, dtype)
        on_progress(path)
    return table
