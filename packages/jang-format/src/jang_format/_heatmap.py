"""What a heat map of a directory shows: cells by layer and module, and those outside the layers."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jang_format._summary import SummaryModule

_LAYER: Final = re.compile(r"(?P<stack>.+?)\.(?P<layer>[0-9]{1,6})\.(?P<name>.+)")
# Bounds for odd directories; models have less.
_MOST_LAYERS, _MOST_COLUMNS, _MOST_OUTSIDE = 400, 60, 40
_LONGEST_LABEL, _LONGEST_NAME = 40, 18

Place = tuple[int, int]


@dataclass(frozen=True)
class Cell:
    """What a cell stands for: one matrix, or those of one name of all experts.

    Attributes:
        bits: Mean width of the codes; where nothing is quantized, bits of a number.
        widths: The widths that occur, empty where nothing is quantized.
        nbytes: Bytes on disk.
    """

    bits: float
    widths: frozenset[int]
    nbytes: int


@dataclass(frozen=True)
class Block:
    """Cells by row and column; a place without one stays blank.

    Attributes:
        cells: By place.
        names: What is written into the cells above the number.
        rows: Names of the rows, or of none.
        columns: Names of the columns, or of none.
        size: How many rows and columns.
        width: Of all cells, in inches.
        height: Of all cells, in inches.
    """

    cells: Mapping[Place, Cell]
    names: Mapping[Place, str]
    rows: Sequence[str]
    columns: Sequence[str]
    size: Place
    width: float
    height: float


def blocks_of(modules: Sequence[SummaryModule]) -> list[Block]:
    """What lies outside the layers, then the layers; of these two what the directory has."""
    matrices = [module for module in modules if len(module.shape) >= 2 and module.parameters]
    outside = defaultdict[str, list[SummaryModule]](list)
    inside = defaultdict[tuple[str, str], dict[int, list[SummaryModule]]](dict)
    for module in matrices:
        path = module.path.removesuffix(".weight")
        found = _LAYER.fullmatch(path)
        if found is None:
            outside[path].append(module)
        else:
            # Experts that are not stacked have numbers too; they share a cell.
            name = re.sub(r"[.][0-9]+(?=[.]|$)", "", found["name"])
            rows = inside[found["stack"], name]
            rows.setdefault(int(found["layer"]), []).append(module)
    layers = _layers_block(inside)
    width = layers.width if layers else 5.0
    return [block for block in (_outside_block(outside, width), layers) if block]


def _layers_block(
    matrices: Mapping[tuple[str, str], Mapping[int, list[SummaryModule]]],
) -> Block | None:
    """One row for each layer and one column for each kind of module, by stack and name."""
    if not matrices:
        return None
    kinds = Counter(stack for stack, _ in matrices)

    def order(column: tuple[str, str]) -> tuple[int, str, bool, str]:
        """The stack with most kinds of modules first, and in it attention first."""
        stack, name = column
        return -kinds[stack], stack, "att" not in name, name

    columns = sorted(matrices, key=order)[:_MOST_COLUMNS]
    layers = sorted({layer for column in columns for layer in matrices[column]})[:_MOST_LAYERS]
    row_of = {layer: row for row, layer in enumerate(layers)}
    return Block(
        cells={
            (row_of[layer], place): _cell(members)
            for place, column in enumerate(columns)
            for layer, members in matrices[column].items()
            if layer in row_of
        },
        names={},
        rows=[str(layer) for layer in layers],
        columns=_column_labels(columns),
        size=(len(layers), len(columns)),
        width=min(max(0.46 * len(columns), 2.6), 14.0),
        height=min(max(0.17, min(0.32, 14 / len(layers))) * len(layers), 30.0),
    )


def _outside_block(matrices: Mapping[str, list[SummaryModule]], width: float) -> Block | None:
    """Cells in reading order, with their names in them."""
    if not matrices:
        return None
    paths = list(matrices)[:_MOST_OUTSIDE]
    columns = max(1, int(width / 1.15))
    places = [divmod(number, columns) for number in range(len(paths))]
    rows = places[-1][0] + 1
    return Block(
        cells={place: _cell(matrices[path]) for place, path in zip(places, paths, strict=True)},
        names={
            place: plain_text(_short_name(path), _LONGEST_NAME)
            for place, path in zip(places, paths, strict=True)
        },
        rows=[],
        columns=[],
        size=(rows, columns),
        width=width,
        height=0.4 * rows,
    )


def _cell(members: Sequence[SummaryModule]) -> Cell:
    parameters = sum(member.parameters for member in members)
    bits = sum(
        8 * member.nbytes if member.bits is None else member.bits * member.parameters
        for member in members
    )
    return Cell(
        bits=bits / parameters,
        widths=frozenset(width for member in members for width in member.widths),
        nbytes=sum(member.nbytes for member in members),
    )


def _column_labels(columns: Sequence[tuple[str, str]]) -> list[str]:
    """The last two parts of each name; in other stacks than the first, after the stack's parent."""
    labels: list[str] = []
    for stack, name in columns:
        short = ".".join(name.split(".")[-2:])
        if stack != columns[0][0]:
            short = f"{stack.rpartition('.')[0] or stack}: {short}"
        labels.append(f"{stack}.{name}" if short in labels else short)
    return [plain_text(label, _LONGEST_LABEL) for label in labels]


def _short_name(path: str) -> str:
    """The last two parts, without those that only say that this is a model."""
    parts = path.split(".")[-2:]
    return parts[-1] if parts[0] in ("model", "language_model") else ".".join(parts)


def plain_text(text: str, longest: int) -> str:
    """The text in characters that every font has, and its end where it is long."""
    escaped = ascii(text)[1:-1]
    return escaped if len(escaped) <= longest else f"...{escaped[3 - longest :]}"
