"""A heat map of a directory: bits and bytes of each matrix, layer after layer."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from jang_format._errors import OutputError
from jang_format._heatmap import Block, Cell, blocks_of, plain_text
from jang_format._summary import Summary
from jang_format._whole_file import write_whole

# Without dates and versions, so that equal directories give equal files.
_METADATA: Final[Mapping[str, dict[str, Any]]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
_SETTINGS: Final = {"svg.fonttype": "none", "svg.hashsalt": "jang", "font.size": 7.0}
_DOTS_PER_INCH: Final = 150
_LONGEST_TITLE: Final = 40
_UNQUANTIZED_COLOR: Final = "#c8c8c8"
# Any number beyond the colour scale.
_UNQUANTIZED_VALUE: Final = 99.0

# matplotlib's stubs leave keyword arguments without types, so strict checking refuses most calls
# of its methods. It is imported where it is used, for it is an extra.
MatplotlibObject = Any


@dataclass(frozen=True)
class _Measure:
    """What a panel shows of a cell, and in which colours."""

    title: str
    colors: MatplotlibObject
    norm: MatplotlibObject
    extend: str
    ticks: list[float]
    value: Callable[[Cell], float]
    text: Callable[[Cell], str]


def draw(summary: Summary, file: Path) -> None:
    """Draw mean bits and bytes of each matrix, by layer and module, as PNG or SVG.

    A file that is there is replaced, whole or not at all. Equal summaries give equal bytes with one
    version of matplotlib. Vectors are left out.

    Args:
        summary: A directory in numbers.
        file: The picture; its name ends in .png or .svg.

    Raises:
        OutputError: If the name ends in something else, matplotlib is not installed, or the file
            cannot be written.
    """
    check_picture(file)
    from matplotlib import style

    suffix = file.suffix.lower()
    content = io.BytesIO()
    # The defaults first: a user's matplotlibrc would change the picture.
    with style.context(["default", _SETTINGS]):
        _figure(summary).savefig(
            content, format=suffix[1:], dpi=_DOTS_PER_INCH, metadata=_METADATA[suffix]
        )
    try:
        write_whole(file, content.getvalue())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error


def check_picture(file: Path) -> None:
    """Refuse what `draw` cannot draw into, before long work for it.

    Raises:
        OutputError: If the name ends neither in .png nor in .svg, or matplotlib is not installed.
    """
    suffix = file.suffix.lower()
    if suffix not in _METADATA:
        raise OutputError(f"{file}: found the suffix {suffix!r}, expected .png or .svg")
    if find_spec("matplotlib") is None:
        raise OutputError(
            "plots need matplotlib, which is missing: pip install 'jang-format[plot]'"
        )


def _megabytes(nbytes: int) -> str:
    size = nbytes / 1e6
    digits = 0 if size >= 99.5 else 1 if size >= 0.995 else 2
    return f"{size:,.{digits}f}" if size >= 0.005 or not size else "<0.01"


def _bits_text(cell: Cell) -> str:
    is_one_width = len(cell.widths) < 2 and cell.bits == round(cell.bits)
    return f"{cell.bits:.0f}" if is_one_width else f"{cell.bits:.1f}"


def _measures(cells: Sequence[Cell]) -> list[_Measure]:
    """Bits on a scale that is the same for all directories, bytes on one that fits these."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    sizes = [cell.nbytes / 1e6 for cell in cells] or [1.0]
    most = max(sizes)
    least = min(max(min(sizes), most / 1000), most / 2)
    steps = [step * 10.0**power for power in range(-7, 8) for step in (1, 2, 5)]
    return [
        _Measure(
            title="Bits of a weight's code",
            colors=colormaps["viridis"].with_extremes(over=_UNQUANTIZED_COLOR),
            norm=Normalize(2, 8),
            extend="max",
            ticks=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            value=lambda cell: cell.bits if cell.widths else _UNQUANTIZED_VALUE,
            text=_bits_text,
        ),
        _Measure(
            title="Megabytes, with scales and biases",
            # The lightest blues would pass for no cell.
            colors=ListedColormap(colormaps["Blues"](np.linspace(0.15, 1, 256))),
            norm=LogNorm(least, most),
            extend="neither",
            ticks=[step for step in steps if least <= step <= most],
            value=lambda cell: max(cell.nbytes / 1e6, least),
            text=lambda cell: _megabytes(cell.nbytes),
        ),
    ]


def _figure(summary: Summary) -> MatplotlibObject:
    """A panel for each measure: side by side, or one above the other where they are wide."""
    from matplotlib.figure import Figure

    blocks = blocks_of(summary.modules)
    cells = [cell for block in blocks for cell in block.cells.values()]
    heights = [block.height for block in blocks]
    width = max((block.width for block in blocks), default=4.0) + 1.2
    longest = max((len(label) for block in blocks for label in block.columns), default=0)
    height = sum(heights) + 0.6 + 0.062 * longest
    down, right = (2, 1) if width > max(height, 6.0) else (1, 2)
    size = (width * right, height * down + 0.9)
    figure: MatplotlibObject = Figure(figsize=size, layout="constrained")
    figure.suptitle(_title(summary), fontsize=10, parse_math=False)
    figure.supxlabel(_note(summary, cells), fontsize=7, color="#444444")
    if blocks:
        subplots = figure.subplots(
            down * len(blocks), right, squeeze=False, height_ratios=heights * down
        )
        # One column of axes for each panel.
        panels = subplots.T if right == 2 else subplots.reshape(2, len(blocks))
        for panel, measure in zip(panels, _measures(cells), strict=True):
            _draw_panel(figure, list(panel), blocks, measure)
    return figure


def _title(summary: Summary) -> str:
    return (
        f"{plain_text(summary.architecture, _LONGEST_TITLE)}, "
        f"{plain_text(summary.profile, _LONGEST_TITLE)}, "
        f"{_megabytes(summary.weight_bytes)} MB\n"
        f"{summary.bits_per_weight:.3f} bits per weight with scales and biases, "
        f"{summary.bits_per_weight_without_embeddings:.3f} without embeddings and head"
    )


def _note(summary: Summary, cells: Sequence[Cell]) -> str:
    hidden = sum(module.nbytes for module in summary.modules) - sum(cell.nbytes for cell in cells)
    notes = [f"Not shown: {_megabytes(hidden)} MB, such as norms."]
    if not all(cell.widths for cell in cells):
        notes.append("Grey: not quantized.")
    if any(len(cell.widths) > 1 for cell in cells):
        notes.append("With a decimal point: mean of several widths.")
    return " ".join(notes)


def _draw_panel(
    figure: MatplotlibObject,
    panel: list[MatplotlibObject],
    blocks: Sequence[Block],
    measure: _Measure,
) -> None:
    """Draw into the axes of a panel, one for each block, and a colour bar beside them."""
    from matplotlib.cm import ScalarMappable

    panel[0].set_title(measure.title, fontsize=9, fontweight="bold", pad=8)
    for axes, block in zip(panel, blocks, strict=True):
        _draw_block(axes, block, measure)
    whole = sum(block.height for block in blocks)
    height = min(whole, 3.0)
    bar = figure.colorbar(
        ScalarMappable(measure.norm, measure.colors),
        ax=panel,
        ticks=measure.ticks,
        format="%g",
        extend=measure.extend,
        shrink=height / whole,
        aspect=height / 0.13,
        anchor=(0, 1),
    )
    bar.minorticks_off()
    bar.outline.set_visible(False)


def _draw_block(axes: MatplotlibObject, block: Block, measure: _Measure) -> None:
    values = np.full(block.size, np.nan)
    for place, cell in block.cells.items():
        values[place] = measure.value(cell)
    # Not an image: these stay shapes in an SVG.
    axes.pcolormesh(
        values, cmap=measure.colors, norm=measure.norm, edgecolors="white", linewidth=0.6
    )
    axes.invert_yaxis()
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", rotation=90)
    rows, columns = block.size
    _name_ticks(axes.yaxis, block.rows, block.height / rows)
    _name_ticks(axes.xaxis, block.columns, block.width / columns)
    if block.rows:
        axes.set_ylabel("layer")
    if block.width / columns < 0.36 or block.height / rows < 0.14:
        return
    for (row, column), cell in block.cells.items():
        red, green, blue, _ = measure.colors(measure.norm(measure.value(cell)))
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        name = f"{block.names[row, column]}\n" if block.names else ""
        axes.text(
            column + 0.5,
            row + 0.5,
            name + measure.text(cell),
            color="white" if is_dark else "black",
            ha="center",
            va="center",
            parse_math=False,
        )


def _name_ticks(axis: MatplotlibObject, names: Sequence[str], inches: float) -> None:
    """Name rows or columns of this size, as many of them as there is room for."""
    step = math.ceil(0.12 / inches)
    places = [place + 0.5 for place in range(0, len(names), step)]
    axis.set_ticks(places, names[::step], parse_math=False)
