"""The picture of a plan."""

from pathlib import Path
from runpy import run_path

import pytest
from typer.testing import CliRunner

from conftest import write_tiny_source
from jang_format import LAYOUTS, LayoutName, read_directory, summarize
from jang_format.cli import app as format_app
from jang_quant import convert, find_profile, open_source, plan_source
from jang_quant._picture import plan_summary
from jang_quant.cli import app

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))


# Dense with all modules quantized; and experts, convolutions, a router that stays unquantized.
@pytest.mark.parametrize("name", ["llama", "qwen3_next"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_picture_of_a_plan_is_that_of_the_directory_it_makes(
    layout: str, name: str, tmp_path: Path
) -> None:
    source = str(HELPERS["write_checkpoint"](tmp_path / "source", name))
    planned, written, out = (str(tmp_path / part) for part in ("plan.svg", "out.svg", "out"))
    asked = ["--profile", "2S", "--layout", layout]
    for command, arguments in (
        (app, ["plan", source, *asked, "--plot", planned]),
        (app, ["convert", source, out, *asked]),
        (format_app, ["inspect", out, "--plot", written]),
    ):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, result.output
    assert Path(planned).read_bytes() == Path(written).read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_is_summed_up_as_the_directory_that_it_makes(
    layout: LayoutName, tmp_path: Path
) -> None:
    source = open_source(str(write_tiny_source(tmp_path / "source")))
    plan = plan_source(source, find_profile("2S"), layout=layout)
    convert(source, tmp_path / "out", plan)
    planned, written = plan_summary(source, plan), summarize(read_directory(tmp_path / "out"))
    assert (planned.layout, planned.weight_bytes) == (layout, written.weight_bytes)
    assert planned.bits_per_weight == written.bits_per_weight


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_source_is_opened(
    tmp_path: Path,
) -> None:
    source = write_tiny_source(tmp_path / "source")
    (source / "config.json").write_text("{}")
    result = CliRunner().invoke(app, ["plan", str(source), "--plot", "bits.jpeg"])
    assert result.exit_code == 2
    assert result.stderr == ("error: bits.jpeg: found the suffix '.jpeg', expected .png or .svg\n")
