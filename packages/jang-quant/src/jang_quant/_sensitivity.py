"""How much each way to store each module would change the model's answers: the Fisher estimate.

The divergence KL(model || quantized) of a token's prediction, if one module's weights are off by D,
is about half the sum over outputs o of `E[g_o^2] (D H D^T)_oo`: H the second moments of the inputs,
g the gradients of the log-likelihood (`_calibration`). Nothing is fitted. D is that of the searched
grids; GPTQ does better, for all modules alike.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from jang_format import BIT_WIDTHS, InvalidTensorError, dequantize, quantized_bytes, write_whole
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
        weight: Its values `[..., out, in]`.
        statistics: What calibration knows of it.
        group_sizes: Those to try; only what divides `in` counts.
        dtype: How scales and biases are stored.
        widths: Widths to try.
    """
    weights = statistics.input_weights()
    damages = {
        (bits, size): 0.0 for size in group_sizes for bits in widths if not weight.shape[-1] % size
    }
    for part in _parts(weight, statistics):
        own = None if weights is None else weights[part.number % len(weights)][None]
        values = np.array(part.values, dtype=np.float32)
        for bits, size in damages:
            off = dequantize(mse.quantize(values, bits, size, dtype, own).tensor) - values
            damages[bits, size] += part.damage(off)
    options = [
        Option(bits, size, quantized_bytes(weight.shape, bits, size), found)
        for (bits, size), found in damages.items()
    ]
    return sorted(options, key=lambda option: option.nbytes)


# Values that are looked at together; what is computed from them takes a few times their memory.
_PART_VALUES: Final = 1 << 22


@dataclass(frozen=True)
class _Part:
    """Some rows of a matrix, and what calibration knows of them.

    Attributes:
        number: The matrix in its stack.
        values: Of the rows, `[rows, in]`.
        moments: Second moments of the matrix's inputs `[in, in]`, each counted as often as a token
            goes to it; None where unknown.
        gradients: Mean square of the gradients of the rows' outputs, `[rows]`.
        frequencies: How often the rows are looked up, `[rows]`; None where they are not.
        lookups: Mean square of the gradients of what is looked up, `[in]`.
    """

    number: int
    values: Floats
    moments: Floats | None
    gradients: Floats | None
    frequencies: Floats | None
    lookups: Floats | None

    def damage(self, off: Floats) -> float:
        """Estimated divergence if the rows are off by `[rows, in]`."""
        total = 0.0
        if self.moments is not None and self.gradients is not None:
            by_output = np.einsum("oi,oi->o", off @ self.moments, off, dtype=np.float64)
            total += float(self.gradients.astype(np.float64) @ by_output)
        if self.frequencies is not None and self.lookups is not None:
            by_row = np.square(off) @ self.lookups
            total += float(self.frequencies.astype(np.float64) @ by_row)
        return total / 2


def _parts(weight: Floats, statistics: ModuleStatistics) -> Iterator[_Part]:
    """The parts of a weight `[..., out, in]` of which anything is known."""
    moments, gradients, lookups = statistics.moments, statistics.gradients, statistics.lookups
    step = max(1, _PART_VALUES // weight.shape[-1])
    for number, matrix in enumerate(weight.reshape(-1, *weight.shape[-2:])):
        share = 0.0 if moments is None else float(moments.shares[number % len(moments.shares)])
        if not share and lookups is None:
            continue
        known = None if moments is None or not share else moments.read(number) * np.float32(share)
        for start in range(0, len(matrix), step):
            rows = slice(start, start + step)
            yield _Part(
                number=number,
                values=matrix[rows],
                moments=known,
                gradients=None if gradients is None else gradients[number, rows],
                frequencies=None if lookups is None else lookups.frequencies[rows],
                lookups=None if lookups is None else lookups.gradients,
            )


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
        values = weights(path)
        try:
            table[path] = options_of(values, known, sizes, dtype)
        except InvalidTensorError:
            # Beyond float16; the conversion will find that out and take bfloat16.
            table[path] = options_of(values, known, sizes, "BF16")
        on_progress(path)
    return table


def write_options(file: Path, table: Mapping[str, Sequence[Option]]) -> None:
    """Keep the options of all modules."""
    rows = {path: [astuple(option) for option in options] for path, options in table.items()}
    write_whole(file, json.dumps(rows).encode())


def read_options(file: Path) -> dict[str, list[Option]]:
    """The options that `write_options` kept."""
    rows = cast(dict[str, list[list[Any]]], json.loads(file.read_text(encoding="utf-8")))
    return {path: [Option(*row) for row in options] for path, options in rows.items()}
