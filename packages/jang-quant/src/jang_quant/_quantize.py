"""One module's weights by a method, with what calibration knows of the module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from jang_format import QuantizedTensor
from jang_quant._calibration.statistics import Calibration, Floats, ModuleStatistics
from jang_quant._methods import gptq, mse, rtn

MethodName = Literal["rtn", "mse", "gptq"]
METHODS: Final[tuple[MethodName, ...]] = ("rtn", "mse", "gptq")

# Path, values, bits, group size, and how scales and biases are stored.
Quantize = Callable[[str, Floats, int, int, str], QuantizedTensor]


@dataclass(frozen=True)
class Recipe:
    """How the modules of a plan are quantized.

    Attributes:
        method: "rtn", "mse" or "gptq".
        calibration: What is known of the modules; None where nothing is.
    """

    method: MethodName = "rtn"
    calibration: Calibration | None = None


_UNKNOWN: Final = ModuleStatistics(hessian=None, gradients=None, lookups=None)


def quantizer(recipe: Recipe) -> Quantize:
    """What quantizes a module; without calibration `mse` counts all errors alike.

    `gptq` falls back to `mse` for modules that calibration did not reach, for stacks of experts and
    for embeddings: rows that are looked up have no inputs that could make up for one another.
    """
    known: Mapping[str, ModuleStatistics] = (
        recipe.calibration.modules if recipe.calibration is not None else {}
    )

    def by_rtn(
        path: str, values: Floats, bits: int, group_size: int, dtype: str
    ) -> QuantizedTensor:
        return rtn.quantize(values, bits, group_size, dtype)

    def by_mse(
        path: str, values: Floats, bits: int, group_size: int, dtype: str
    ) -> QuantizedTensor:
        weights = known.get(path, _UNKNOWN).input_weights()
        return mse.quantize(values, bits, group_size, dtype, weights)

    def by_gptq(
        path: str, values: Floats, bits: int, group_size: int, dtype: str
    ) -> QuantizedTensor:
        statistics = known.get(path, _UNKNOWN)
        if statistics.hessian is None or statistics.lookups is not None or values.ndim != 2:
            return by_mse(path, values, bits, group_size, dtype)
        hessian = statistics.hessian.astype(np.float64)
        return gptq.quantize(values, bits, group_size, dtype, hessian)

    return {"rtn": by_rtn, "mse": by_mse, "gptq": by_gptq}[recipe.method]
