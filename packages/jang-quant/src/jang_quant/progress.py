"""Calibration and conversion that say how far they are, and how long it takes yet.

They draw bars; `jang_format.terminal.event_progress` in their place prints JSON lines.
"""

from collections.abc import Callable
from pathlib import Path

from jang_format import Progress
from jang_format.terminal import Bar, Show, byte_progress, count_progress
from jang_quant._calibration import collect
from jang_quant._calibration.statistics import Calibration
from jang_quant._conversion import Conversion
from jang_quant._convert import convert
from jang_quant._plan import Plan
from jang_quant._quantize import Recipe
from jang_quant._request import Prepared, Request, calibration_of, prepare
from jang_quant._sources.source import Source

__all__ = ["calibrate_with_progress", "convert_with_progress", "prepare_with_progress"]


def calibrate_with_progress(source: Source, request: Request, file: Path) -> Calibration:
    """Run text through a model and write what it sees to a file, showing how far on stderr.

    Raises:
        JangQuantError: If the text or the model cannot be had.
    """
    with count_progress("calibrating") as show:
        return calibration_of(source, request, file, _calibration_shown(show))


def prepare_with_progress(
    source: Source, request: Request, folder: Path, bar: Bar = count_progress
) -> Prepared:
    """Prepare as `jang_quant.prepare` does, showing how far calibration is on stderr.

    Raises:
        JangQuantError: As `jang_quant.prepare` does.
    """
    with bar("calibrating") as show:
        return prepare(source, request, folder, _calibration_shown(show))


def _calibration_shown(show: Show) -> Callable[[collect.Progress], None]:
    return lambda progress: show(progress.done, progress.total, progress.what)


def convert_with_progress(
    source: Source,
    out: Path,
    plan: Plan,
    recipe: Recipe | None = None,
    folder: Path | None = None,
    bar: Bar = byte_progress,
) -> Conversion:
    """Convert as `jang_quant.convert` does, showing bytes and time left on stderr.

    Raises:
        JangQuantError: As `jang_quant.convert` does.
    """
    with bar("converting") as show:

        def on_progress(progress: Progress) -> None:
            show(progress.done, progress.total, progress.path)

        return convert(source, out, plan, on_progress, recipe or Recipe(), folder)
