"""Plans and conversions, for people and for programs."""

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from rich.table import Table

from jang_quant._conversion import Conversion
from jang_quant._memory import MemoryNeeds
from jang_quant._plan import Plan, PlannedModule, PlannedParameter
from jang_quant._request import Prepared
from jang_quant._sources.source import Source


def plan_table(plan: Plan) -> Table:
    """A plan as a table: a row for the modules of one name that are treated alike."""
    table = Table()
    for heading in ("role", "module", "count", "shape", "bits", "group", "bytes"):
        table.add_column(heading, justify="left" if heading in ("role", "module") else "right")
    for (role, name, shape, bits, group_size), modules in _alike(plan).items():
        table.add_row(
            role,
            name,
            str(len(modules)),
            " x ".join(map(str, shape)),
            str(bits or "-"),
            str(group_size or "-"),
            f"{sum(module.nbytes for module in modules):,}",
        )
    for role, others in _by_role(plan).items():
        nbytes = sum(other.nbytes for other in others)
        table.add_row(role, "", str(len(others)), "", "-", "-", f"{nbytes:,}")
    table.add_section()
    table.add_row("", "all tensors", "", "", "", "", f"{plan.tensor_bytes:,}")
    return table


def plan_headline(source: Source, plan: Plan) -> str:
    """What a plan gives, in a line; a second one if the source is quantized already."""
    headline = (
        f"{source.name} as {plan.name}: {plan.parameters / 1e6:,.1f} M parameters, "
        f"{plan.tensor_bytes / 1e6:,.1f} MB, {plan.bits_per_weight:.3f} bits per weight "
        "(embeddings, scales and biases included)"
    )
    if source.quantization:
        headline += f"\nthe source is quantized already ({source.quantization}): "
        headline += "what it lost stays lost"
    return headline


def memory_line(memory: MemoryNeeds) -> str:
    """That a plan fits, and what takes how much."""
    return (
        f"fits in {memory.limit / 1e9:g} GB with {memory.context:,} tokens: {memory.describe()} = "
        f"{memory.total / 1e9:.2f} GB"
    )


_Alike = tuple[str, str, tuple[int, ...], int | None, int | None]


def _alike(plan: Plan) -> dict[_Alike, list[PlannedModule]]:
    rows: dict[_Alike, list[PlannedModule]] = defaultdict(list)
    for module in plan.modules:
        name = module.path.rpartition(".")[2]
        rows[module.role, name, module.shape, module.bits, module.group_size].append(module)
    return rows


def _by_role(plan: Plan) -> dict[str, list[PlannedParameter]]:
    roles: dict[str, list[PlannedParameter]] = defaultdict(list)
    for other in plan.others.values():
        roles[other.role].append(other)
    return roles


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What a plan gives in all, for JSON."""
    return {
        "profile": plan.name,
        "parameters": plan.parameters,
        "tensor_bytes": plan.tensor_bytes,
        "bits_per_weight": plan.bits_per_weight,
    }


def _facts(source: Source, plan: Plan) -> dict[str, Any]:
    return {
        "source": {"name": source.name, "quantization": source.quantization},
        "architecture": source.config["model_type"],
        **plan_facts(plan),
    }


def plan_document(source: Source, plan: Plan) -> dict[str, Any]:
    """A plan for JSON, every module with its bytes."""
    return {
        **_facts(source, plan),
        "modules": [asdict(module) | {"nbytes": module.nbytes} for module in plan.modules],
        "others": {
            role: {"count": len(others), "nbytes": sum(other.nbytes for other in others)}
            for role, others in _by_role(plan).items()
        },
    }


def estimates(prepared: Prepared) -> dict[str, Any]:
    """What is expected of a plan, for JSON; null where it was not asked."""
    memory = prepared.memory
    return {
        "damage": prepared.damage,
        "memory": None if memory is None else asdict(memory) | {"total": memory.total},
    }


def conversion_document(source: Source, conversion: Conversion) -> dict[str, Any]:
    """A finished conversion for JSON, every module with its bytes, error and seconds."""
    return {
        "out": str(conversion.out),
        **_facts(source, conversion.plan),
        "weight_bytes": conversion.weight_bytes,
        "float_dtype": conversion.float_dtype,
        "seconds": conversion.seconds,
        "modules": [asdict(module) for module in conversion.modules],
    }
