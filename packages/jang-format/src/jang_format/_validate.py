"""Validation: every rule of docs/FORMAT.md held against a directory, all problems listed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from jang_format._digests import (
    DIGESTS_FILE,
    Digests,
    digest_of,
    digest_of_array,
    digest_of_file,
    read_digests,
)
from jang_format._dtypes import FLOATS, decode_floats
from jang_format._errors import DirectoryError, InvalidFileError, MissingFileError, Report, describe
from jang_format._files import locate
from jang_format._layouts import LAYOUTS
from jang_format._quantized import QuantizedTensor, unpack_groups
from jang_format._reader import CONFIG_FILE, ModelDirectory, attempt, open_directory
from jang_format._rules import description_errors, description_warnings

Severity = Literal["error", "warning"]

# Tokenizers, templates, settings and code; people add model cards and pictures.
_READ_BY_LOADERS: Final = (".json", ".jinja", ".model", ".py", ".safetensors", ".txt")


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

    def warn(problem: DirectoryError) -> None:
        found.append(("warning", problem))

    directory = attempt(lambda: open_directory(path, report), None, report)
    digests: Digests | None = None
    if directory is not None:
        modules = _read_modules(directory, report)
        for problem in description_errors(directory, modules):
            report(problem)
        for problem in description_warnings(directory, modules):
            warn(problem)
        _check_locations(directory, report)
        digests = _read_digests(directory, report)
        if digests is not None:
            _check_files(directory, digests, report)
            _check_coverage(directory, digests, report, warn)
        if read_data:
            _check_data(directory, modules, digests, report, on_progress)
            _check_other_numbers(directory, report, warn)
    problems = (
        Problem(severity, p.file, p.field, p.found, p.expected)
        for severity, p in sorted(found, key=lambda item: item[0])
    )
    return Validation(
        directory=str(path),
        # Two rules may stumble over one thing.
        problems=tuple(dict.fromkeys(problems)),
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


def _check_locations(directory: ModelDirectory, report: Report) -> None:
    """Every file is a regular one of the directory, those included that only others read."""
    for name in directory.file_names:
        if not name.startswith("."):
            attempt(partial(locate, directory.path, name), None, report)


def _read_digests(directory: ModelDirectory, report: Report) -> Digests | None:
    promised = directory.manifest.get("digests")
    if promised is not None and promised != DIGESTS_FILE:
        file = directory.path / directory.manifest_file
        report(InvalidFileError(file, "digests", describe(promised), repr(DIGESTS_FILE)))
    if DIGESTS_FILE not in directory.file_names:
        if promised is not None:
            file = directory.path / DIGESTS_FILE
            report(MissingFileError(file, "file", "nothing", "digests, as the manifest says"))
        return None
    return attempt(lambda: read_digests(directory.path, report), None, report)


def _check_files(directory: ModelDirectory, digests: Digests, report: Report) -> None:
    """Headers and files beside the weights have their digests, and none is missing."""
    for name, expected in digests.files.items():
        # The name comes from a file: it must not lead out of the directory.
        file = attempt(partial(locate, directory.path, name), None, report)
        found = attempt(partial(digest_of_file, file), "", report) if file else ""
        if found and found != expected:
            field = "content"
            report(InvalidFileError(directory.path / name, field, f"sha256 {found}", expected))
    headers = {name: digest_of(file.header) for name, file in directory.weight_files.items()}
    files = {name: directory.path / name for name in headers}
    _compare("header", headers, digests.headers, files, directory.path / DIGESTS_FILE, report)


def _check_coverage(
    directory: ModelDirectory, digests: Digests, report: Report, warn: Report
) -> None:
    """What was written with the digests is listed; people may add files, and loaders read some."""
    described = {CONFIG_FILE, directory.manifest_file}
    if directory.index is not None:
        described.add(directory.index.name)
    listed = {DIGESTS_FILE, *digests.files}
    for name in directory.file_names:
        if name in listed or any(layout.is_shard(name) for layout in LAYOUTS.values()):
            continue
        file, field = directory.path / DIGESTS_FILE, f"files.{name}"
        problem = InvalidFileError(file, field, "nothing", "a digest of this file")
        if name in described:
            report(problem)
        elif name.endswith(_READ_BY_LOADERS):
            warn(problem)


def _compare(
    what: str,
    found: Mapping[str, str],
    expected: Mapping[str, str],
    files: Mapping[str, Path],
    digests_file: Path,
    report: Report,
) -> None:
    """Two sets of digests are one; `files` is where the digested parts are."""
    for name in sorted(found.keys() | expected.keys()):
        field = f"{what}s.{name}"
        if name not in expected:
            wanted = f"a digest of this {what}"
            report(InvalidFileError(digests_file, field, "nothing", wanted))
        elif name not in found:
            report(InvalidFileError(digests_file, field, "a digest", f"none, no such {what}"))
        elif found[name] != expected[name]:
            field = f"{what} {name}"
            report(InvalidFileError(files[name], field, f"sha256 {found[name]}", expected[name]))


def _check_data(
    directory: ModelDirectory,
    modules: Mapping[str, QuantizedTensor],
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
            # Someone may shorten a file meanwhile.
            digest = attempt(lambda tensor=tensor: digest_of_array(tensor.map()), None, report)
            if digest is not None:
                found[name] = digest
            done += tensor.spec.nbytes
            on_progress(Progress(done=done, total=total))
        files = {name: tensor.file for name, tensor in directory.tensors.items()}
        file = directory.path / DIGESTS_FILE
        _compare("tensor", found, digests.tensors, files, file, report)
    for path, module in modules.items():
        for part in _odd_parts(module):
            stored = directory.tensors[f"{path}.{part}"]
            found_there = "codes in the padding" if part == "qweight" else "NaN or infinity"
            wanted = "zeros there" if part == "qweight" else "finite numbers"
            report(InvalidFileError(stored.file, stored.spec.name, found_there, wanted))


def _odd_parts(module: QuantizedTensor) -> Iterator[str]:
    """Parts with scales, biases or zeros that are no numbers, or codes in the padding."""
    for part in ("scales", "biases", "zeros"):
        array = getattr(module, part)
        if array is not None and not _all_finite(array, module.dtype):
            yield part
    padding = -module.shape[-1] % module.group_size
    if padding and unpack_groups(module)[..., -1, -padding:].any():
        yield "qweight"


def _check_other_numbers(directory: ModelDirectory, report: Report, warn: Report) -> None:
    """What is not quantized has finite numbers too; a few odd models do not."""
    quantized = directory.quantized_names()
    for name, tensor in directory.tensors.items():
        if name in quantized or tensor.spec.dtype not in FLOATS:
            continue
        data = attempt(tensor.map, None, report)
        if data is not None and not _all_finite(data, tensor.spec.dtype):
            warn(InvalidFileError(tensor.file, name, "NaN or infinity", "finite numbers"))


def _all_finite(stored: NDArray[Any], dtype: str) -> bool:
    return bool(np.isfinite(decode_floats(stored, dtype)).all())
