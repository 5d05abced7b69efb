"""A plan for a budget of bytes, from what each way to store each module would damage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jang_quant._budget import choose
from jang_quant._plan import Plan, PlannedModule
from jang_quant._sensitivity import Option


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan, and what is expected of it.

    Attributes:
        plan: The plan.
        damage: Estimated divergence from the source's answers, in nats a token.
    """

    plan: Plan
    damage: float


def measured_plan(
    base: Plan, name: str, table: Mapping[str, Sequence[Option]], tensor_bytes: int
) -> MeasuredPlan:
    """The plan with the least estimated damage whose tensors take at most `tensor_bytes`.

    Args:
        base: Roles and shapes; what `table` does not have stays as it is there.
        name: Name of the plan.
        table: The options of each module that may change, by module path.
        tensor_bytes: Bytes for all tensors of the model, unquantized ones included.

    Raises:
        PlanError: If the budget is below what the smallest options take.
    """
    # Maps of a layout are there whatever the bits are.
    changing = sum(m.nbytes - m.map_bytes for m in base.modules if m.path in table)
    fixed = base.tensor_bytes - changing
    choice = choose(table, tensor_bytes - fixed)
    modules = tuple(_with_option(module, choice.options) for module in base.modules)
    plan = replace(base, name=name, modules=modules)
    return MeasuredPlan(plan=plan, damage=choice.damage)


def _with_option(module: PlannedModule, options: Mapping[str, Option]) -> PlannedModule:
    option = options.get(module.path)
    if option is None:
        return module
    return replace(module, bits=option.bits, group_size=option.group_size)


def bytes_for_bits(base: Plan, bits_per_weight: float) -> int:
    """Bytes of all tensors if matrices take so many bits a weight, scales and biases included."""
    matrices = base.matrices
    return base.tensor_bytes - matrices.nbytes + int(matrices.weights * bits_per_weight / 8)
