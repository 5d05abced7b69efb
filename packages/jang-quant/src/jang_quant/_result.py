"""What came of a conversion, for people: bits, bytes and errors by role, slow and odd modules."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from jang_quant._conversion import Conversion, ConvertedModule

_MOST_SLOW: Final = 5
_MOST_NOTES: Final = 10


def print_result(conversion: Conversion, console: Console) -> None:
    """Print what was written, the error of each role, the slowest modules, and all notes."""
    console.print(_headline(conversion), soft_wrap=True, highlight=False, markup=False)
    console.print(_role_table(conversion))
    console.print(_slow_table(conversion.modules))
    for line in _notes(conversion.modules):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def role_error(modules: Sequence[ConvertedModule], parameters: Mapping[str, int]) -> float | None:
    """How far quantized weights are off, as a part of their size; None where none is quantized.

    It is the root of the modules' relative squared errors, each counted by its weights.

    Args:
        modules: Those of one role.
        parameters: Weights of each module, by path.
    """
    quantized = [module for module in modules if module.bits is not None]
    weights = sum(parameters[module.path] for module in quantized)
    if not weights:
        return None
    squares = sum(parameters[module.path] * module.relative_error for module in quantized)
    return math.sqrt(squares / weights)


def _headline(conversion: Conversion) -> str:
    speed = conversion.weight_bytes / 1e6 / conversion.seconds if conversion.seconds else 0.0
    return (
        f"wrote {conversion.out}: {conversion.weight_bytes:,} bytes of weights, "
        f"{conversion.plan.bits_per_weight:.3f} bits per weight, {conversion.seconds:.1f} s, "
        f"{speed:.1f} MB/s"
    )


def _role_table(conversion: Conversion) -> Table:
    parameters = {module.path: module.parameters for module in conversion.plan.modules}
    roles: dict[str, list[ConvertedModule]] = defaultdict(list)
    for module in conversion.modules:
        roles[module.role].append(module)
    table = _table("role", "modules", "bits", "bytes", "off by")
    for role, modules in roles.items():
        error = role_error(modules, parameters)
        table.add_row(
            role,
            str(len(modules)),
            _bits_range(modules),
            f"{sum(module.nbytes for module in modules):,}",
            "-" if error is None else f"{error:.2%}",
        )
    return table


def _slow_table(modules: Sequence[ConvertedModule]) -> Table:
    table = _table("slowest module", "seconds", "bits", "off by")
    for module in sorted(modules, key=lambda module: -module.seconds)[:_MOST_SLOW]:
        table.add_row(
            module.path,
            f"{module.seconds:.2f}",
            str(module.bits or "-"),
            f"{math.sqrt(module.relative_error):.2%}",
        )
    return table


def _notes(modules: Sequence[ConvertedModule]) -> Iterator[str]:
    noted = [module for module in modules if module.note]
    for module in noted[:_MOST_NOTES]:
        yield f"{module.path}: {module.note}"
    if len(noted) > _MOST_NOTES:
        yield f"… {len(noted) - _MOST_NOTES} more; --json lists them all"


def _bits_range(modules: Sequence[ConvertedModule]) -> str:
    widths = sorted({module.bits for module in modules if module.bits is not None})
    if not widths:
        return "-"
    return str(widths[0]) if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"


def _table(name: str, *numbers: str) -> Table:
    table = Table()
    table.add_column(name)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
