"""Plans of many kinds, what is predicted of each, and the weights that each gives.

The prediction is the number that `jang-quant plan` and `convert` print as `damage`, from the same
functions: the sum over modules of the Fisher estimate with searched grids. Every module is
quantized at most once by each method at each width, so that many plans cost little more than a few.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from commands import say
from models import Weights, arrays_of
from numpy.typing import NDArray

from jang_format import BIT_WIDTHS, QuantizedTensor, dequantize
from jang_quant import Plan, Recipe, Source, find_profile, plan_source
from jang_quant._calibration.store import load
from jang_quant._measured_plan import bytes_for_bits, measured_plan
from jang_quant._quantize import MethodName, quantizer
from jang_quant._sensitivity import Option, measure

GROUP_SIZE: Final = 64
METHODS: Final[Sequence[MethodName]] = ("mse", "gptq")
# For single modules: a width that hurts and one that does not.
SINGLE_WIDTHS: Final = (2, 4)

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Extent:
    """How many trials.

    Attributes:
        budgets: Bits a weight, of plans.
        uniform: Widths for all modules alike.
        layers: Whose modules are quantized one at a time.
    """

    budgets: Sequence[float]
    uniform: Sequence[int]
    layers: Sequence[int]


EVERYTHING: Final = Extent(
    budgets=(2.6, 2.8, 3, 3.25, 3.5, 3.75, 4, 4.25, 4.5, 4.75, 5, 5.5, 6, 6.5, 7),
    uniform=BIT_WIDTHS,
    layers=(0, 10, 20, 29),
)
QUICK: Final = Extent(budgets=(5,), uniform=(3,), layers=(29,))


@dataclass(frozen=True)
class Trial:
    """Modules quantized by a method, each to a width; all others stay as they are.

    Attributes:
        name: In the work directory.
        family: What it is an example of, for people.
        label: For people.
        method: "mse" or "gptq".
        widths: Bits by module path.
        damage: The predicted divergence, in nats a token.
        bits_per_weight: Over all matrices; None where most are not quantized.
    """

    name: str
    family: str
    label: str
    method: MethodName
    widths: Widths
    damage: float
    bits_per_weight: float | None


@dataclass(frozen=True)
class Workbench:
    """A source with its table of options, and what was quantized already."""

    source: Source
    base: Plan
    table: Mapping[str, Sequence[Option]]
    quantize: Mapping[MethodName, Callable[[str, int], QuantizedTensor]]
    kept: dict[tuple[str, str, int], QuantizedTensor] = field(
        default_factory=dict[tuple[str, str, int], QuantizedTensor]
    )

    def weights(self, trial: Trial) -> Weights:
        """The weights that a trial changes, by parameter path."""
        # Quantized one by one, for each is quantized on all cores.
        quantized = {
            path: self._quantized(trial.method, path, bits) for path, bits in trial.widths.items()
        }
        return arrays_of(
            {f"{path}.weight": partial(dequantize, tensor) for path, tensor in quantized.items()}
        )

    def _quantized(self, method: MethodName, path: str, bits: int) -> QuantizedTensor:
        key = (method, path, bits)
        if key not in self.kept:
            self.kept[key] = self.quantize[method](path, bits)
        return self.kept[key]


def open_workbench(source: Source, calibration: Path) -> Workbench:
    """Read a calibration and estimate what each width of each module would damage."""
    known = load(calibration, source)
    base = plan_source(source, find_profile("JANG_4M"), GROUP_SIZE)
    say("estimating the damage of each width of each module")
    table = measure(partial(_values, source), known.modules, (GROUP_SIZE,), source.float_dtype)

    def by(method: MethodName) -> Callable[[str, int], QuantizedTensor]:
        quantize = quantizer(Recipe(method, known))
        return lambda path, bits: (
            quantize(path, _values(source, path), bits, GROUP_SIZE, source.float_dtype).tensor
        )

    return Workbench(source, base, table, {method: by(method) for method in METHODS})


def _values(source: Source, path: str) -> NDArray[np.float32]:
    return source.tensors[f"{path}.weight"].read()


def trials(bench: Workbench, extent: Extent) -> list[Trial]:
    """Plans for budgets, uniform plans, and single modules."""
    return [
        *_plans(bench, extent.budgets),
        *_uniform(bench, extent.uniform),
        *_singles(bench, extent.layers),
    ]


def _plans(bench: Workbench, budgets: Sequence[float]) -> Iterator[Trial]:
    for bits in budgets:
        name = f"{bits:g} bits"
        made = measured_plan(bench.base, name, bench.table, bytes_for_bits(bench.base, bits))
        widths = {each.path: each.bits for each in made.plan.modules if each.bits is not None}
        for method in METHODS:
            yield Trial(
                name=f"plan-{bits:g}-{method}",
                family=f"plans, {method}",
                label=f"--bits {bits:g}",
                method=method,
                widths=widths,
                damage=made.damage,
                bits_per_weight=made.plan.bits_per_weight,
            )


def _uniform(bench: Workbench, every: Sequence[int]) -> Iterator[Trial]:
    for bits in every:
        widths = dict.fromkeys(bench.table, bits)
        for method in METHODS:
            yield Trial(
                name=f"uniform-{bits}-{method}",
                family=f"uniform, {method}",
                label=f"{bits} bits everywhere",
                method=method,
                widths=widths,
                damage=_damage(bench, widths),
                bits_per_weight=bits + 32 / GROUP_SIZE,
            )


def _singles(bench: Workbench, layers: Sequence[int]) -> Iterator[Trial]:
    begins = tuple(f"model.layers.{layer}." for layer in layers)
    for path in bench.table:
        if path.startswith("model.layers.") and not path.startswith(begins):
            continue
        for bits in SINGLE_WIDTHS:
            widths = {path: bits}
            yield Trial(
                name=f"single-{path}-{bits}",
                family=f"one module at {bits} bits, mse",
                label=path,
                method="mse",
                widths=widths,
                damage=_damage(bench, widths),
                bits_per_weight=None,
            )


def _damage(bench: Workbench, widths: Widths) -> float:
    """The sum that a plan's damage is."""
    return sum(
        option.damage
        for path, bits in widths.items()
        for option in bench.table[path]
        if option.bits == bits
    )
