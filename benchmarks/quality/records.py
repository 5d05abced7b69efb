"""What was measured, in files: a campaign of hours can be broken off and continued."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from checkout import checked_out_commit
from divergence import Divergence
from numpy.typing import NDArray

from jang_runtime.blas import blas_in_use

_CONDITIONS: Final = "conditions.json"


@dataclass(frozen=True)
class Conditions:
    """On what text, where and with what programs.

    Attributes:
        count: Windows of text.
        length: Tokens of each.
        text: SHA-256 of the text file.
        place: The processor.
        versions: Of the programs.
        commit: Of this repository.
    """

    count: int
    length: int
    text: str
    place: str
    versions: str
    commit: str

    def sentence(self) -> str:
        """For a page."""
        return (
            f"Text: {self.count} windows of {self.length} tokens spread evenly over wikitext-2 raw "
            f"test (sha256 {self.text[:16]}). Measured in float32 on {self.place}; "
            f"{self.versions}; commit {self.commit}."
        )


@dataclass(frozen=True)
class Record:
    """One model, measured.

    Attributes:
        name: In the work directory.
        divergence: From the reference.
        nbytes: Of its weight files; None for the reference and for what was never written.
        bits_per_weight: Over all matrices; None likewise.
        damage: The divergence that was predicted for it, where one was.
        calibration: What the manifest says of its calibration, where there was one.
    """

    name: str
    divergence: Divergence
    nbytes: int | None = None
    bits_per_weight: float | None = None
    damage: float | None = None
    calibration: Mapping[str, Any] | None = None


class Records:
    """A directory of records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def read(self, name: str) -> Record:
        """The record of a model."""
        content = json.loads(self._file(name).read_text())
        found = cast(dict[str, Any], content.pop("divergence"))
        found["windows"] = tuple(found["windows"])
        return Record(divergence=Divergence(**found), **content)

    def write(self, record: Record) -> None:
        """Keep a record."""
        self._file(record.name).write_text(json.dumps(asdict(record), indent=1))

    def conditions(self, windows: NDArray[np.int32], text: Path, commit: str | None) -> Conditions:
        """Those of the first measurement here; now, if this is it.

        Raises:
            RuntimeError: If other windows were measured here.
        """
        file = self.directory / _CONDITIONS
        present = _conditions(windows, text, commit)
        if not file.exists():
            file.write_text(json.dumps(asdict(present), indent=1))
        first = Conditions(**json.loads(file.read_text()))
        wanted = (present.count, present.length, present.text)
        if (first.count, first.length, first.text) != wanted:
            raise RuntimeError(f"{file}: found other windows of text; take another directory")
        return first

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _conditions(windows: NDArray[np.int32], text: Path, commit: str | None) -> Conditions:
    count, length = windows.shape
    packages = ("mlx", "mlx-lm", "numba", "numpy", "jang-quant")
    return Conditions(
        count=count,
        length=length,
        text=hashlib.sha256(text.read_bytes()).hexdigest(),
        place=_place(),
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        commit=commit or checked_out_commit(),
    )


def _place() -> str:
    device = mx.default_device()
    name = mx.device_info(device).get("device_name", "an unnamed processor")
    if device == mx.Device(mx.gpu):
        return f"one {name}"
    return f"{name}, {platform.system()}, {blas_in_use()}"
