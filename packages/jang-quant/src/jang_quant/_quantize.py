"""One module's weights by a method, with what calibration knows of the module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from numba import config, set_num_threads
from numpy.typing import NDArray

from jang_quant._calibration.statistics import Calibration, ModuleStatistics
from jang_quant._errors import PlanError
from jang_quant._methods import gptq, mse, rtn
from jang_quant._methods._result import Quantized

MethodName = Literal["rtn", "mse", "gptq"]
METHODS: Final[tuple[MethodName, ...]] = ("rtn", "mse", "gptq")

# float32, or bfloat16 as uint16.
Values = NDArray[Any]
# Path, values, bits, group size, and how scales and biases are stored.
Quantize = Callable[[str, Values, int, int, str], Quantized]


@dataclass(frozen=True)
class Recipe:
    """How the modules of a plan are quantized.

    Attributes:
        method: "rtn", "mse" or "gptq".
        calibration: What is known of the modules; None where nothing is.
    """

    method: MethodName = "rtn"
    calibration: Calibration | None = None


_UNKNOWN: Final = ModuleStatistics(moments=None, gradients=None, lookups=None)


def use_threads(count: int | None) -> None:
    """Let methods use this many threads from now on; None for as many as there are cores.

    Raises:
        PlanError: If there are not so many.
    """
    most = int(config.NUMBA_NUM_THREADS)
    if count is not None and count > most:
        raise PlanError(f"--jobs: found {count}, expected at most {most}")
    set_num_threads(count or most)


def quantizer(recipe: Recipe) -> Quantize:
    """What quantizes a module; without calibration `mse` counts all errors alike.

    `gptq` falls back to `mse` for modules that calibration did not reach and for embeddings: rows
    that are looked up have no inputs that could make up for one another.
    """
    known: Mapping[str, ModuleStatistics] = (
        recipe.calibration.modules if recipe.calibration is not None else {}
    )

    def by_rtn(path: str, values: Values, bits: int, group_size: int, dtype: str) -> Quantized:
        return rtn.quantize(values, bits, group_size, dtype)

    def by_mse(path: str, values: Values, bits: int, group_size: int, dtype: str) -> Quantized:
        statistics = known.get(path, _UNKNOWN)
        found = mse.quantize(values, bits, group_size, dtype, statistics.input_weights())
        return replace(found, note=_sparse_note(statistics))

    def by_gptq(path: str, values: Values, bits: int, group_size: int, dtype: str) -> Quantized:
        statistics = known.get(path, _UNKNOWN)
        if statistics.lookups is not None:
            return by_mse(path, values, bits, group_size, dtype)
        if statistics.moments is None:
            found = by_mse(path, values, bits, group_size, dtype)
            return replace(found, note="mse, since the text did not reach it")
        found = gptq.quantize(values, bits, group_size, dtype, statistics.moments.read)
        return replace(found, note=_sparse_note(statistics))

    return {"rtn": by_rtn, "mse": by_mse, "gptq": by_gptq}[recipe.method]


def _sparse_note(statistics: ModuleStatistics) -> str:
    """Which matrices of a stack saw too little text to be calibrated on their own."""
    moments = statistics.moments
    if moments is None or not moments.sparse:
        return ""
    return (
        f"{len(moments.sparse)} of {len(moments.diagonals)} experts saw too few tokens and take "
        "the statistics of the layer"
    )
