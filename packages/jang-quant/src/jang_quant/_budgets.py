"""What is asked of a plan in all, as bytes of its tensors: bits a weight, a size, memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from jang_format import GROUP_SIZES, LAYOUTS, quantized_bytes, weight_bytes_of
from jang_quant._errors import PlanError
from jang_quant._measured_plan import bytes_for_bits
from jang_quant._memory import MemoryNeeds
from jang_quant._option_tables import changing_modules, prior_table
from jang_quant._plan import Plan

_UNIFORM_GROUP_SIZE: Final = 64
# An offset in a header may have a few digits more than in the plan that was measured.
_HEADER_SLACK: Final = 6

# The name of the plan, and the bytes of all tensors.
Budget = Callable[[Plan], tuple[str, int]]


def bits_budget(name: str, bits: float) -> Budget:
    """So many bits a weight over all matrices."""
    return lambda base: (name, bytes_for_bits(base, bits))


def uniform_budget(name: str, bits: int) -> Budget:
    """The bytes of so many bits in groups of 64, for all modules that a budget decides."""

    def budget(base: Plan) -> tuple[str, int]:
        changing = changing_modules(base)
        fixed = base.tensor_bytes - sum(module.nbytes for module in changing)
        return name, fixed + sum(_uniform_bytes(module.shape, bits) for module in changing)

    return budget


def _uniform_bytes(shape: tuple[int, ...], bits: int) -> int:
    fits = shape[-1] % _UNIFORM_GROUP_SIZE == 0
    return quantized_bytes(shape, bits, _UNIFORM_GROUP_SIZE if fits else min(GROUP_SIZES))


def size_budget(nbytes: int) -> Budget:
    """Weight files of so many bytes, headers included."""

    def budget(base: Plan) -> tuple[str, int]:
        # Headers state offsets, and offsets grow with the plan: those of the largest plan do.
        headers = _weight_bytes(base) - base.tensor_bytes
        return f"{nbytes:,} bytes", nbytes - headers - len(base.modules) * _HEADER_SLACK

    return budget


def memory_budget(memory: MemoryNeeds) -> Budget:
    """What is left for the weight files; that of a size of so many bytes, under its own name."""
    left = size_budget(memory.limit - memory.cache - memory.workspace)
    name = f"{memory.limit / 1e9:g} GB of memory with {memory.context:,} tokens"
    return lambda base: (name, left(base)[1])


def refuse_too_little(memory: MemoryNeeds, base: Plan) -> None:
    """Refuse memory that no plan fits into, before a long calibration for it.

    Raises:
        PlanError: If not even the smallest plan does.
    """
    table = prior_table(base)
    fixed = base.tensor_bytes - sum(m.nbytes for m in base.modules if m.path in table)
    smallest = fixed + sum(min(o.nbytes for o in options) for options in table.values())
    least = replace(memory, weights=smallest)
    if least.total > memory.limit:
        raise PlanError(
            f"--fit-memory: found {memory.limit / 1e9:.2f} GB, expected at least "
            f"{least.total / 1e9:.2f} GB for the smallest plan with {memory.context:,} tokens: "
            f"{least.describe()}"
        )


def _weight_bytes(plan: Plan) -> int:
    """Size of the weight files, headers included."""
    return weight_bytes_of(plan.tensor_specs("F16"), LAYOUTS[plan.layout])
