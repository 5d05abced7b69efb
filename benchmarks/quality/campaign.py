"""What the pages have in common: the text, the work directory, models measured some at a time."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from calibrations import calibrate
from commands import SOURCE, say
from divergence import REFERENCE, Divergence, measure
from models import Logits, model_of, source_weights
from numpy.typing import NDArray
from records import Conditions, Record, Records

from jang_format.terminal import count_progress
from jang_quant import Source, open_source
from jang_quant._calibration.run import encoder

WINDOWS: Final = 16
LENGTH: Final = 1024
_QUICK_WINDOWS: Final = 1
_QUICK_LENGTH: Final = 128
_QUICK_CALIBRATION: Final = ("--sequences", "4", "--length", "64")
# Models that go over the text together, with one run of the reference for them all.
_TOGETHER: Final = 4


@dataclass(frozen=True)
class Asked:
    """The command line.

    Attributes:
        text: wiki.test.raw.
        calibration: A text, or a file that `jang-quant calibrate` wrote.
        own: The same for the model's own text; "self" writes it.
        work: Directory for what is made and measured.
        jobs: Conversions at a time.
        quick: A rehearsal: few models, little text.
        page_only: Nothing is made or measured.
        published: The published package's command line; None installs it.
        commit: Of this repository; None asks git.
    """

    text: Path
    calibration: str
    own: str
    work: Path
    jobs: int
    quick: bool
    page_only: bool
    published: str | None
    commit: str | None


@dataclass(frozen=True)
class Candidate:
    """A model to measure: its name, how to get it, and what to note of it."""

    name: str
    load: Callable[[], Logits]
    record: Callable[[Divergence], Record]


@dataclass(frozen=True)
class Campaign:
    """A source, a text, and what was measured already."""

    asked: Asked
    source: Source
    windows: NDArray[np.int32]
    records: Records
    conditions: Conditions

    @property
    def models(self) -> Path:
        """Where models are made."""
        return self.asked.work / "models"

    def calibration(self, text: str, name: str) -> Path:
        """The calibration on a text, made unless it is there."""
        options = _QUICK_CALIBRATION if self.asked.quick else ()
        return calibrate(text, self.asked.work / f"{name}.safetensors", options)

    def measure(self, candidates: Sequence[Candidate]) -> None:
        """Measure what has no record yet, and the reference with it."""
        missing = iter([each for each in candidates if each.name not in self.records])
        reference = model_of(self.source.config, source_weights(self.source))
        while group := list(islice(missing, _TOGETHER)):
            models = {each.name: each.load() for each in group}
            say(f"measuring {', '.join(models)}")
            with count_progress("windows") as show:
                found = measure(
                    reference,
                    models,
                    self.windows,
                    lambda done: show(done, len(self.windows), ""),
                )
            for each in group:
                self.records.write(each.record(found[each.name]))
            self.records.write(Record(REFERENCE, found[REFERENCE]))


def arguments(description: str | None) -> Asked:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("text", type=Path, help="wiki.test.raw of wikitext-2")
    add("calibration", help="a text, or a file of `jang-quant calibrate`")
    add("--work", type=Path, required=True, help="a directory for what is made")
    add("--own", default="self", help="a calibration on the model's own text")
    add("--jobs", type=int, default=1, help="conversions at a time")
    add("--quick", action="store_true", help="a rehearsal; the page is printed and not kept")
    add("--page-only", action="store_true", help="write the page from what was measured")
    add("--published", help="command line of jang 2.5.50, which is installed otherwise")
    add("--commit", help="of this repository, where git cannot be asked")
    return Asked(**vars(parser.parse_args()))


def begin(asked: Asked) -> Campaign:
    """Open the source, the text and the work directory."""
    # Otherwise MLX multiplies with 10 bits of precision on GPUs that can.
    os.environ["MLX_ENABLE_TF32"] = "0"
    source = open_source(SOURCE)
    count, length = (_QUICK_WINDOWS, _QUICK_LENGTH) if asked.quick else (WINDOWS, LENGTH)
    windows = _windows_of(source, asked.text, count, length)
    records = Records(asked.work / "records")
    conditions = records.conditions(windows, asked.text, asked.commit)
    return Campaign(asked, source, windows, records, conditions)


def finish(asked: Asked, result: Path, page: str) -> None:
    """Show a page, and keep it if it is no rehearsal."""
    if not asked.quick:
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(page)
    print(page)


def _windows_of(source: Source, text: Path, count: int, length: int) -> NDArray[np.int32]:
    """Windows spread evenly over a text."""
    tokens = encoder(source)(text.read_text(encoding="utf-8"))
    step = len(tokens) // count
    return np.array([tokens[n * step : n * step + length] for n in range(count)], dtype=np.int32)
