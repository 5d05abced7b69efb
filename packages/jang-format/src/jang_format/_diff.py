"""What differs between two directories, down to how far apart the weights are.

Modules are compared by their paths and by the values that they stand for, so that it does not
matter which layout a directory has, how its tensors are spread over files, or whether a module is
quantized at all.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from jang_format._digests import DIGESTS_FILE
from jang_format._distance import ModuleDifference, Stored, compare
from jang_format._errors import InvalidFileError, describe, printable
from jang_format._files import locate
from jang_format._json import section
from jang_format._layouts import LAYOUTS
from jang_format._manifest import READABLE_MANIFESTS
from jang_format._reader import CONFIG_FILE, ModelDirectory

# Bytes of a file that are looked at together.
_CHUNK: Final = 1 << 21
_NOTHING: Final = object()


@dataclass(frozen=True)
class Change:
    """Something that two directories state differently.

    Attributes:
        key: Its name, with dots where it is inside of something.
        a: Value in A, shortened; None where A has none.
        b: Value in B, shortened; None where B has none.
    """

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class OnlyIn:
    """What only one of two directories has.

    Attributes:
        modules: Paths of quantized modules.
        tensors: Names of tensors that are not quantized.
        files: Names of files beside the weights.
    """

    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """What differs between the directories A and B.

    Attributes:
        about: Layout, architecture and profile, as far as they differ.
        config: Keys of config.json that differ.
        manifest: Keys of the manifest that differ.
        only_in_a: What B lacks.
        only_in_b: What A lacks.
        modules: Every module that both have, identical or not.
        files: Names of files that both have, with different content: all but config, manifest,
            weights, index and digests, which the rest is about or which follow from it.
    """

    about: tuple[Change, ...]
    config: tuple[Change, ...]
    manifest: tuple[Change, ...]
    only_in_a: OnlyIn
    only_in_b: OnlyIn
    modules: tuple[ModuleDifference, ...]
    files: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether there is no difference, however the tensors are spread over files."""
        nothing = OnlyIn((), (), ())
        return (
            not (self.about or self.config or self.manifest or self.files)
            and self.only_in_a == self.only_in_b == nothing
            and all(module.identical for module in self.modules)
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"same": self.same, **asdict(self)}


@dataclass(frozen=True)
class DiffProgress:
    """How far a comparison is: `done` of `total` modules, the last one of them `path`."""

    done: int
    total: int
    path: str


def diff(
    a: ModelDirectory,
    b: ModelDirectory,
    on_progress: Callable[[DiffProgress], None] = lambda progress: None,
) -> Difference:
    """Compare two directories in either layout.

    Reads all tensors of both; takes memory for a few million values at a time.

    Args:
        a: The one directory.
        b: The other one.
        on_progress: Called after every module.

    Raises:
        InvalidFileError: If the tensors of a module do not fit together, or a file is no regular
            file of its directory.
        MissingFileError: If a file is a link to nothing.
    """
    in_a, in_b = _entries(a), _entries(b)
    both = [key for key in in_a if key in in_b]
    modules: list[ModuleDifference] = []
    for done, key in enumerate(both, 1):
        entries = in_a[key], in_b[key]
        quantized = next((entry for entry in entries if entry.quantized), entries[0])
        modules.append(compare(quantized.path, _load(a, entries[0]), _load(b, entries[1])))
        on_progress(DiffProgress(done=done, total=len(both), path=quantized.path))
    files_a, files_b = _files(a), _files(b)
    return Difference(
        about=tuple(_changes(_about(a), _about(b))),
        config=tuple(_changes(a.config, b.config)),
        manifest=tuple(_changes(a.manifest, b.manifest)),
        only_in_a=_only(in_a, in_b, files_a, files_b),
        only_in_b=_only(in_b, in_a, files_b, files_a),
        modules=tuple(modules),
        files=tuple(
            name
            for name in files_a
            if name in files_b and not _same_content(locate(a.path, name), locate(b.path, name))
        ),
    )


@dataclass(frozen=True)
class _Entry:
    """A quantized module, or a tensor that is not quantized, by its path or name."""

    path: str
    quantized: bool


def _entries(directory: ModelDirectory) -> dict[str, _Entry]:
    """What a directory holds, by the name that the tensor of values has where none is quantized."""
    parts = directory.quantized_names()
    plain = {name: _Entry(name, False) for name in directory.tensors if name not in parts}
    entries: dict[str, _Entry] = {}
    for path in directory.quantized_paths():
        name = f"{path}.weight"
        entries[path if name in plain else name] = _Entry(path, True)
    return entries | plain


def _load(directory: ModelDirectory, entry: _Entry) -> Stored:
    return directory.quantized(entry.path) if entry.quantized else directory.tensors[entry.path]


def _only(
    here: Mapping[str, _Entry], there: Mapping[str, _Entry], files: list[str], others: list[str]
) -> OnlyIn:
    missing = [entry for key, entry in here.items() if key not in there]
    return OnlyIn(
        modules=tuple(entry.path for entry in missing if entry.quantized),
        tensors=tuple(entry.path for entry in missing if not entry.quantized),
        files=tuple(name for name in files if name not in others),
    )


def _about(directory: ModelDirectory) -> dict[str, Any]:
    return {
        "layout": directory.layout.name,
        "architecture": directory.config.get("model_type"),
        "profile": section(directory.manifest, "quantization").get("profile"),
    }


def _changes(a: Any, b: Any, key: str = "") -> Iterator[Change]:
    """Where two JSON values differ, as deep as both are objects or both arrays."""
    members_a, members_b = _members(a, key), _members(b, key)
    if members_a is not None and members_b is not None and type(a) is type(b):
        for inner in dict.fromkeys([*members_a, *members_b]):
            value_a, value_b = members_a.get(inner, _NOTHING), members_b.get(inner, _NOTHING)
            yield from _changes(value_a, value_b, inner)
    # Python takes 1, 1.0 and true for equal.
    elif (type(a), a) != (type(b), b):
        texts = (None if value is _NOTHING else printable(describe(value)) for value in (a, b))
        yield Change(printable(key), *texts)


def _members(value: object, key: str) -> dict[str, Any] | None:
    """What is inside of a JSON value that has this key, by keys; None where nothing can be."""
    if isinstance(value, dict):
        members = cast(dict[str, Any], value)
        return {f"{key}.{name}" if key else name: member for name, member in members.items()}
    if isinstance(value, list):
        items = cast(list[Any], value)
        return {f"{key}[{place}]": item for place, item in enumerate(items)}
    return None


def _files(directory: ModelDirectory) -> list[str]:
    """Names of the files that nothing else here is about."""
    known = {CONFIG_FILE, DIGESTS_FILE, *READABLE_MANIFESTS}
    for layout in LAYOUTS.values():
        known.update(layout.readable_indexes)
        known.update(filter(layout.is_shard, directory.file_names))
    return [name for name in directory.file_names if name not in known]


def _same_content(a: Path, b: Path) -> bool:
    try:
        if a.stat().st_size != b.stat().st_size:
            return False
        with a.open("rb") as stream_a, b.open("rb") as stream_b:
            while chunk := stream_a.read(_CHUNK):
                if chunk != stream_b.read(_CHUNK):
                    return False
    except OSError as error:
        raise InvalidFileError(error.filename, "file", error.strerror, "a readable file") from error
    return True
