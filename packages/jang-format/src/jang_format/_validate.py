"""Validation: every rule of docs/FORMAT.md held against a directory, all problems listed."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jang_format._digests import DIGESTS_FILE, Digests, digest_of, digest_of_file, read_digests
from jang_format._digests import digest_of_array as digest_of_tensor
from jang_format._dtypes import FLOATS, decode_floats
from jang_format._errors import DirectoryError, InvalidFileError, MissingFileError, Report
from jang_format._files import locate
from jang_format._mlx_layout import finite_scales
from jang_format._quantized import QuantizedTensor, unpack_groups
from jang_format._reader import ModelDirectory, attempt, open_directory
from jang_format._rules import description_errors, description_warnings
from jang_format._safetensors import StoredTensor

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One rule that a directory breaks.

    Attributes:
        severity: "error" for what a reader may stumble over, "warning" for what some readers do.
        file: The file.
        field: The key, tensor or offset inside it.
        found: What stands there.
        expected: What the format wants there.
    """

    severity: Severity
    file: str
    field: str
    found: str
    expected: str


@dataclass(frozen=True)
class Validation:
    """What validation found.

    Attributes:
        directory: The directory.
        problems: Errors first.
        tensors: How many tensors were looked at.
        digests_checked: Whether there are digests that every byte was held against.
    """

    directory: str
    problems: tuple[Problem, ...]
    tensors: int
    digests_checked: bool

    @property
    def valid(self) -> bool:
        """Whether there is no error; warnings may be there."""
        return not any(problem.severity == "error" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"valid": self.valid, **asdict(self)}


@dataclass(frozen=True)
class Progress:
    """How far a validation is: `done` of `total` bytes are read."""

    done: int
    total: int


def validate(
    path: Path,
    *,
    read_data: bool = True,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Validation:
    """Hold a directory against every rule of the format.

    Args:
        path: The directory.
        read_data: Whether to read the tensors: for numbers that are none, and for the digests.
        on_progress: Called after every tensor.
    """
    found: list[tuple[Severity, DirectoryError]] = []

    def report(problem: DirectoryError) -> None:
        found.append(("error", problem))

    directory = attempt(lambda: open_directory(path, report), None, report)
    digests: Digests | None = None
    if directory is not None:
        modules = _read_modules(directory, report)
        for problem in description_errors(directory, modules):
            report(problem)
        for problem in description_warnings(directory, modules):
            found.append(("warning", problem))
        digests = _read_digests(directory, report)
        if digests is not None:
            _check_files(directory, digests, report)
        if read_data:
            _check_data(directory, modules, digests, report, on_progress)
            for problem in _odd_weights(directory):
                found.append(("warning", problem))
    return Validation(
        directory=str(path),
        problems=tuple(
            Problem(severity, p.file, p.field, p.found, p.expected)
            for severity, p in sorted(found, key=lambda item: item[0])
        ),
        tensors=len(directory.tensors) if directory else 0,
        digests_checked=digests is not None and read_data,
    )


def _read_modules(directory: ModelDirectory, report: Report) -> dict[str, QuantizedTensor]:
    """The quantized modules that are sound, by path."""
    modules: dict[str, QuantizedTensor] = {}
    for path in directory.quantized_paths():
        try:
            modules[path] = directory.quantized(path)
        except DirectoryError as problem:
            report(problem)
    return modules


def _read_digests(directory: ModelDirectory, report: Report) -> Digests | None:
    promised = directory.manifest.get("digests")
    if DIGESTS_FILE not in directory.file_names:
        if promised is not None:
            file = directory.path / DIGESTS_FILE
            report(MissingFileError(file, "file", "nothing", "digests, as the manifest says"))
        return None
    return attempt(lambda: read_digests(directory.path, report), None, report)


def _check_files(directory: ModelDirectory, digests: Digests, report: Report) -> None:
    """Headers and files beside the weights have their digests, and none is missing."""
    for name, expected in digests.files.items():
        file = directory.path / name
        found = attempt(
            lambda file=file: digest_of_file(locate(file.parent, file.name)), "", report
        )
        if found and found != expected:
            report(InvalidFileError(file, "content", f"sha256 {found}", expected))
    _compare(
        directory.path,
        {name: digest_of(file.header) for name, file in directory.weight_files.items()},
        digests.headers,
        "header",
        report,
    )


def _compare(where: Path, found: dict[str, str], expected: Any, what: str, report: Report) -> None:
    """Two sets of digests are one."""
    file = where / DIGESTS_FILE
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            report(InvalidFileError(file, f"{what}s.{name}", "nothing", f"a digest of this {what}"))
        elif name not in found:
            report(InvalidFileError(file, f"{what}s.{name}", "a digest", f"none, no such {what}"))
        elif found[name] != expected[name]:
            field = f"{what} {name}"
            report(InvalidFileError(where, field, f"sha256 {found[name]}", expected[name]))


def _check_data(
    directory: ModelDirectory,
    modules: dict[str, QuantizedTensor],
    digests: Digests | None,
    report: Report,
    on_progress: Callable[[Progress], None],
) -> None:
    """Digests of the tensors, finite scales, padding that is zero."""
    if digests is not None:
        total = sum(tensor.spec.nbytes for tensor in directory.tensors.values())
        done = 0
        found: dict[str, str] = {}
        for name, tensor in directory.tensors.items():
            found[name] = digest_of_tensor(tensor.map())
            done += tensor.spec.nbytes
            on_progress(Progress(done=done, total=total))
        _compare(directory.path, found, digests.tensors, "tensor", report)
    for path, tensor in modules.items():
        if not finite_scales(tensor):
            wanted = "finite numbers"
            report(InvalidFileError(directory.path, f"{path}.scales", "NaN or infinity", wanted))
        padding = -tensor.shape[-1] % tensor.group_size
        if padding and unpack_groups(tensor)[..., -1, -padding:].any():
            field = f"{path}.qweight"
            report(InvalidFileError(directory.path, field, "codes in the padding", "zeros there"))


def _odd_weights(directory: ModelDirectory) -> Iterator[DirectoryError]:
    quantized = directory.quantized_names()
    for name, tensor in directory.tensors.items():
        if name not in quantized and tensor.spec.dtype in FLOATS and not _all_finite(tensor):
            yield InvalidFileError(tensor.file, name, "NaN or infinity", "finite numbers")


def _all_finite(tensor: StoredTensor) -> bool:
    return bool(np.isfinite(decode_floats(tensor.map(), tensor.spec.dtype)).all())
