"""Opening a directory in either layout: headers and JSON at once, tensors when asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeVar

from jang_format import _block_layout, _mlx_layout
from jang_format._errors import (
    DirectoryError,
    InvalidFileError,
    MissingFileError,
    Report,
    raise_first,
)
from jang_format._files import read_json
from jang_format._index import Index, check_names, read_index, shard_names
from jang_format._layouts import BLOCK_LAYOUT, LAYOUTS, MLX_LAYOUT, Layout, layout_of
from jang_format._manifest import MANIFEST_FILE, block_size, read_manifest
from jang_format._quantized import QuantizedTensor
from jang_format._safetensors import StoredTensor, WeightFile, read_weight_file

T = TypeVar("T")

CONFIG_FILE: Final = "config.json"


@dataclass(frozen=True)
class ModelDirectory:
    """A directory in one of the two layouts.

    Attributes:
        path: The directory.
        layout: Which layout its files have.
        config: The content of config.json.
        manifest: The content of jang_config.json; empty where there is none.
        manifest_file: Its name, which differs in old directories.
        index: Which tensor is in which file; None where no file says so.
        weight_files: What each weight file says about itself, by file name.
        file_names: Every file of the directory, sorted.
    """

    path: Path
    layout: Layout
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    manifest_file: str
    index: Index | None
    weight_files: Mapping[str, WeightFile]
    file_names: tuple[str, ...]

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor of the weight files, by name."""
        return {
            name: tensor
            for weight_file in self.weight_files.values()
            for name, tensor in weight_file.tensors.items()
        }

    @property
    def weight_bytes(self) -> int:
        """Size of all weight files together."""
        return sum(weight_file.nbytes for weight_file in self.weight_files.values())

    def quantized_paths(self) -> list[str]:
        """Module paths of the quantized tensors, in the order of the files."""
        if self.layout is BLOCK_LAYOUT:
            return _block_layout.module_paths(self.tensors)
        return _mlx_layout.module_paths(self.tensors)

    def quantized(self, path: str) -> QuantizedTensor:
        """The quantized tensor of a module, memory-mapped.

        Raises:
            InvalidFileError: If its tensors and what describes them do not fit together.
        """
        if self.layout is BLOCK_LAYOUT:
            size = block_size(self.path / self.manifest_file, self.manifest)
            return _block_layout.read_module(self.path, self.config, size, self.tensors, path)
        return _mlx_layout.read_module(self.path, self.config, self.tensors, path)

    def quantized_names(self) -> set[str]:
        """Names of all tensors that belong to a quantized module."""
        is_block = self.layout is BLOCK_LAYOUT
        parts = _block_layout.READABLE_PARTS if is_block else _mlx_layout.PARTS
        names = {f"{path}.{part}" for path in self.quantized_paths() for part in parts}
        return names & self.tensors.keys()


def read_directory(path: Path) -> ModelDirectory:
    """Open a directory in either layout, with a manifest or without.

    Raises:
        MissingFileError: If the directory, config.json or the weight files are not there.
        InvalidFileError: If one of them breaks the format.
        UnsupportedVersionError: If the manifest is of another format or version.
    """
    return open_directory(path, raise_first)


def open_directory(path: Path, report: Report) -> ModelDirectory:
    """Open a directory, and report each problem on the way.

    Raises:
        MissingFileError: If there is no directory.
        DirectoryError: Whatever `report` raises.
    """
    path = Path(path)
    names = _file_names(path)
    config = attempt(lambda: read_json(path / CONFIG_FILE), {}, report)
    manifest_file, manifest = attempt(
        lambda: read_manifest(path, names, report), (MANIFEST_FILE, {}), report
    )
    layout = layout_of(names)
    if layout is None:
        wanted = " or ".join(known.readable_shards[0] for known in LAYOUTS.values())
        report(MissingFileError(path, "weight files", "none", wanted))
        layout = MLX_LAYOUT
    index = attempt(lambda: read_index(path, names, layout, report), None, report)
    weight_files: dict[str, WeightFile] = {}
    for name in shard_names(path, names, layout, index, report):
        read = attempt(partial(read_weight_file, path / name, report), None, report)
        if read is not None:
            weight_files[name] = read
    check_names(path, weight_files, index, report)
    return ModelDirectory(
        path=path,
        layout=layout,
        config=config,
        manifest=manifest,
        manifest_file=manifest_file,
        index=index,
        weight_files=weight_files,
        file_names=tuple(names),
    )


def attempt(read: Callable[[], T], otherwise: T, report: Report) -> T:
    """What `read` returns, or `otherwise` after the problem is reported."""
    try:
        return read()
    except DirectoryError as problem:
        report(problem)
        return otherwise


def _file_names(path: Path) -> list[str]:
    try:
        if not path.is_dir():
            raise MissingFileError(path, "directory", "nothing", "a directory")
        return sorted(entry.name for entry in path.iterdir() if not entry.is_dir())
    except OSError as error:
        raise InvalidFileError(path, "directory", error.strerror, "a readable one") from error
