"""A conversion with a progress bar: bytes written, and time left."""

from pathlib import Path

from jang_format.terminal import byte_progress
from jang_quant import _convert
from jang_quant._convert import Conversion
from jang_quant._plan import Plan
from jang_quant._sources.source import Source

__all__ = ["convert_with_progress"]


def convert_with_progress(source: Source, out: Path, plan: Plan) -> Conversion:
    """Convert as `jang_quant.convert` does, showing bytes and time left on stderr.

    Raises:
        JangQuantError: As `jang_quant.convert` does.
    """
    with byte_progress("converting") as show:

        def on_progress(progress: _convert.Progress) -> None:
            show(progress.done, progress.total, progress.path)

        return _convert.convert(source, out, plan, on_progress)
