"""The heat map that `draw` makes of a summary."""

import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from jang_format import OutputError, Summary
from jang_format._plot import draw
from jang_format._summary import SummaryModule

SVG = "{http://www.w3.org/2000/svg}"


def module(
    path: str, bits: float | None, shape: tuple[int, ...] = (64, 64), widths: Iterable[int] = ()
) -> SummaryModule:
    """A module of the size that it would have in groups of 64, or in 16 bits."""
    bits_of_all = math.prod(shape) * (16 if bits is None else bits + 0.5)
    return SummaryModule(
        path=path,
        role="-",
        bits=bits,
        widths=tuple(widths) or (() if bits is None else (round(bits),)),
        group_size=None if bits is None else 64,
        shape=shape,
        nbytes=int(bits_of_all / 8),
    )


def summary(modules: Iterable[SummaryModule], architecture: str = "toy") -> Summary:
    modules = tuple(modules)
    return Summary(
        layout="mlx",
        architecture=architecture,
        profile="JANG_4M",
        digest=None,
        plan_digest="",
        parameters=sum(module.parameters for module in modules),
        weight_bytes=12_340_000,
        bits_per_weight=4.56,
        bits_per_weight_without_embeddings=4.12,
        bytes_by_role={},
        rows=(),
        modules=modules,
    )


def llama(layers: int) -> Summary:
    paths = ("self_attn.q_proj", "mlp.down_proj")
    return summary(
        module(f"model.layers.{layer}.{path}", 4.0) for layer in range(layers) for path in paths
    )


def texts_of(group: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()).strip() for text in group.iter(f"{SVG}text")]


def axes_of(file: Path) -> list[ElementTree.Element]:
    """Outside the layers: bits, bytes; inside: bits, bytes; then the colour bars."""
    groups = ElementTree.parse(file).iter(f"{SVG}g")
    return [group for group in groups if group.get("id", "").startswith("axes_")]


def cells_of(axes: ElementTree.Element) -> list[ElementTree.Element]:
    """The groups with the texts in cells, not those beside them."""
    return [child for child in axes if child.get("id", "").startswith("text_")]


def names_of(axes: ElementTree.Element) -> list[list[str]]:
    """Names of the columns and of the rows, and what is written beside them."""
    return [texts_of(child) for child in axes if child.get("id", "").startswith("matplotlib.axis")]


def table_of(axes: ElementTree.Element) -> dict[tuple[str, str], str]:
    """Texts of the cells by the names of column and row that they are drawn at."""
    columns, rows = names_of(axes)
    texts = [text for cell in cells_of(axes) for text in cell.iter(f"{SVG}text")]
    places = [tuple(round(float(text.attrib[key])) for key in ("x", "y")) for text in texts]
    x_of, y_of = (sorted({place[axis] for place in places}) for axis in (0, 1))
    return {
        (columns[x_of.index(x)], rows[y_of.index(y)]): "".join(text.itertext())
        for (x, y), text in zip(places, texts, strict=True)
    }


def png_size(file: Path) -> tuple[int, int]:
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def test_a_png_grows_with_the_layers(tmp_path: Path) -> None:
    heights: list[int] = []
    for layers in (2, 80):
        draw(llama(layers), tmp_path / "plot.PNG")
        width, height = png_size(tmp_path / "plot.PNG")
        assert 500 < width < 3000
        heights.append(height)
    assert heights[0] < 1000 < heights[1] < 4000


def test_the_picture_of_an_odd_directory_stays_of_a_size_that_can_be_looked_at(
    tmp_path: Path,
) -> None:
    paths = [f"model.layers.{number}.a.x" for number in range(1000)]
    paths += [f"model.layers.0.b.x{number}" for number in range(1000)]
    paths += [f"x{number}" for number in range(1000)]
    modules = [module(path, 4.0) for path in paths]
    draw(summary(modules), tmp_path / "plot.svg")
    size = ElementTree.parse(tmp_path / "plot.svg").getroot().attrib
    assert all(float(size[side].removesuffix("pt")) < 72 * 40 for side in ("width", "height"))
    outside, _, inside, *_ = axes_of(tmp_path / "plot.svg")
    assert len(cells_of(outside)) < 50
    columns, rows = names_of(inside)
    assert len(columns) < 100
    assert 300 < int(rows[-2]) < 500


def test_a_cell_says_the_mean_bits_and_the_megabytes_of_a_module_in_a_layer(
    tmp_path: Path,
) -> None:
    matrix = (1000, 1000)
    modules = [
        module("model.embed_tokens", 6.0, (8000, 1000)),
        module("lm_head.weight", None, (8000, 1000)),
        # A hybrid: the layers have different modules.
        module("model.layers.0.linear_attn.in_proj", 5.0, matrix),
        module("model.layers.7.self_attn.q_proj", 3.0, matrix, widths=(2, 4)),
        # In one layer quantized and in the other not: one column all the same.
        module("model.layers.0.mlp.gate", 8.0, matrix),
        module("model.layers.7.mlp.gate.weight", None, matrix),
        # A short name that is taken.
        module("model.layers.7.side.mlp.gate", 2.0, matrix),
        # Experts that are not stacked share a cell.
        module("model.layers.7.mlp.experts.0.up_proj", 2.0, matrix),
        module("model.layers.7.mlp.experts.1.up_proj", 4.0, (3000, 1000)),
        # Vectors have no cell, and matrices of another stack have columns of their own.
        module("model.layers.7.input_layernorm.weight", None, (500_000,)),
        module("visual.blocks.0.self_attn.q_proj.weight", None, matrix),
    ]
    draw(summary(modules), tmp_path / "plot.svg")
    outside_bits, outside_sizes, bits, sizes, *_ = axes_of(tmp_path / "plot.svg")
    assert table_of(bits) == {
        ("linear_attn.in_proj", "0"): "5",
        ("self_attn.q_proj", "7"): "3.0",
        ("experts.up_proj", "7"): "3.5",
        ("mlp.gate", "0"): "8",
        ("mlp.gate", "7"): "16",
        ("model.layers.side.mlp.gate", "7"): "2",
        ("visual: self_attn.q_proj", "0"): "16",
    }
    assert table_of(sizes) == {
        ("linear_attn.in_proj", "0"): "0.69",
        ("self_attn.q_proj", "7"): "0.44",
        ("experts.up_proj", "7"): "2.0",
        ("mlp.gate", "0"): "1.1",
        ("mlp.gate", "7"): "2.0",
        ("model.layers.side.mlp.gate", "7"): "0.31",
        ("visual: self_attn.q_proj", "0"): "2.0",
    }
    cells = [[texts_of(cell) for cell in cells_of(axes)] for axes in (outside_bits, outside_sizes)]
    assert [panel[:2] for panel in cells] == [
        [["embed_tokens", "6"], ["lm_head", "16"]],
        [["embed_tokens", "6.5"], ["lm_head", "16.0"]],
    ]
    everything = " ".join(texts_of(ElementTree.parse(tmp_path / "plot.svg").getroot()))
    assert "toy, JANG_4M, 12.3 MB" in everything
    assert "4.560 bits per weight" in everything
    assert "4.120 without embeddings" in everything
    assert "Not shown: 1.0 MB" in everything


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_a_picture_has_the_same_bytes_each_time_whatever_matplotlib_is_set_to(
    tmp_path: Path, name: str
) -> None:
    draw(llama(2), tmp_path / name)
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "red", "svg.hashsalt": "x"}):
        draw(llama(2), tmp_path / f"again-{name}")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"again-{name}"])


def test_odd_names_are_drawn_and_never_obeyed(tmp_path: Path) -> None:
    modules = [
        module("model.layers.0.$x_{$.q<&>\x00\u6f22", 4.0),
        SummaryModule("model.layers.3.empty", "-", math.nan, (), 64, (0, 64), 0),
        module("$\\frac{$\ud800", None),
        module("e" * 5000, 8.0),
    ]
    for name in ("plot.svg", "plot.png"):
        draw(summary(modules, architecture="$\\frac{$\x1b[2J\n"), tmp_path / name)
    texts = texts_of(ElementTree.parse(tmp_path / "plot.svg").getroot())
    assert texts.count("$x_{$.q<&>\\x00\\u6f22") == 2
    assert texts.count("$\\\\frac{$\\ud800") == 2
    assert "$\\\\frac{$\\x1b[2J\\n, JANG_4M, 12.3 MB" in texts
    assert max(map(len, texts)) < 100
    draw(summary([]), tmp_path / "empty.svg")
    assert "toy, JANG_4M, 12.3 MB" in texts_of(ElementTree.parse(tmp_path / "empty.svg").getroot())


def test_what_cannot_be_drawn_leaves_no_file_and_the_one_before_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "before.svg"
    before.write_text("mine")
    with pytest.raises(OutputError, match="found the suffix '.pdf', expected .png or .svg"):
        draw(llama(2), tmp_path / "plot.pdf")
    with pytest.raises(OutputError, match="nowhere/plot.png: cannot be written .No such file"):
        draw(llama(2), tmp_path / "nowhere" / "plot.png")
    (tmp_path / "directory.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        draw(llama(2), tmp_path / "directory.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match=r"pip install 'jang-format\[plot\]'") as caught:
        draw(llama(2), before)
    assert "\n" not in str(caught.value)
    assert before.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.svg", "directory.png"]


def test_matplotlib_is_imported_for_drawing_only_and_pyplot_never(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import jang_format._plot as plot\n"
        "from jang_format import Summary\n"
        "assert 'matplotlib' not in sys.modules\n"
        "summary = Summary('mlx', 'a', 'p', None, '', 0, 0, 0.0, 0.0, {}, (), ())\n"
        f"plot.draw(summary, Path({str(tmp_path / 'plot.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
