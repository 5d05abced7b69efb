"""A conversion with a progress bar: bytes written, and time left."""

from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

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
    columns = (
        TextColumn("converting"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[path]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("converting", total=plan.tensor_bytes, path="")

        def show(progress: _convert.Progress) -> None:
            bar.update(task, completed=progress.done, path=progress.path)

        return _convert.convert(source, out, plan, show)
