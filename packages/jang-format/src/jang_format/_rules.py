"""Rules about what describes the weights: manifest, config.json and index against the tensors.

Opening a directory settles whether it can be read; these say whether everyone reads the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import numpy as np

from jang_format._block_layout import PARTS as BLOCK_PARTS
from jang_format._errors import DirectoryError, InvalidFileError, MissingFileError, describe
from jang_format._layouts import BLOCK_LAYOUT, MLX_LAYOUT
from jang_format._manifest import FORMAT, MANIFEST_FILE, major_version, section
from jang_format._quantized import QuantizedTensor
from jang_format._reader import CONFIG_FILE, ModelDirectory

Modules = Mapping[str, QuantizedTensor]

_ENTRY_KEYS: Final = {"bits", "group_size", "mode"}
# Companions of other formats; stock loaders are strict about tensors that a model does not have.
_FOREIGN_PARTS: Final = ("awq_scales", "importance", "tq_packed", "tq_norms", "tq_bits")


def description_errors(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """The rules that every directory has to keep."""
    yield from _manifest_errors(directory, modules)
    yield from _index_errors(directory)
    yield from _foreign_tensors(directory)
    if directory.layout is MLX_LAYOUT:
        yield from _quantization_errors(directory, modules)
    elif "quantization" in directory.config:
        file = directory.path / CONFIG_FILE
        found = "an entry, which MLX programs would follow"
        yield InvalidFileError(file, "quantization", found, "none in block layout")


def description_warnings(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """What our reader copes with and others may not; old directories are full of it."""
    if directory.manifest and directory.manifest_file != MANIFEST_FILE:
        file = directory.path / directory.manifest_file
        yield InvalidFileError(file, "file name", directory.manifest_file, MANIFEST_FILE)
    if directory.index is None:
        wanted = "an index, which distributed loaders want"
        yield MissingFileError(directory.path / directory.layout.index, "file", "nothing", wanted)
    for name, weight_file in directory.weight_files.items():
        if dict(weight_file.metadata) != directory.layout.metadata:
            found = describe(dict(weight_file.metadata))
            wanted = str(directory.layout.metadata)
            yield InvalidFileError(directory.path / name, "__metadata__", found, wanted)
    yield from _scattered_modules(directory)
    if directory.layout is BLOCK_LAYOUT:
        yield from _old_companions(directory)
    else:
        yield from _missing_entries(directory, modules)


def _manifest_errors(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    manifest, file = directory.manifest, directory.path / directory.manifest_file
    if not manifest:
        if directory.manifest_file not in directory.file_names:
            yield MissingFileError(file, "file", "nothing", "a manifest")
        return
    if "format" not in manifest:
        yield InvalidFileError(file, "format", "nothing", repr(FORMAT))
    version = manifest.get("format_version")
    if not isinstance(version, str) or major_version(version) != directory.layout.major:
        wanted = (
            f"'{directory.layout.version}', for the files are in {directory.layout.name} layout"
        )
        yield InvalidFileError(file, "format_version", describe(version), wanted)
    for key in ("quantization", "source_model", "architecture", "runtime", "roles"):
        if not isinstance(manifest.get(key, {}), dict):
            yield InvalidFileError(file, key, describe(manifest[key]), "an object")
    for path in section(manifest, "roles"):
        if path not in modules:
            yield InvalidFileError(file, f"roles.{path}", "a role", "a quantized module")
    stated = section(manifest, "quantization").get("bit_widths_used")
    widths = sorted({int(w) for tensor in modules.values() for w in np.unique(tensor.bit_map)})
    if stated is not None and stated != widths:
        yield InvalidFileError(
            file, "quantization.bit_widths_used", describe(stated), f"{widths}, as the tensors have"
        )


def _index_errors(directory: ModelDirectory) -> Iterator[DirectoryError]:
    if directory.index is None:
        return
    stated = directory.index.metadata.get("total_size")
    data = sum(tensor.spec.nbytes for tensor in directory.tensors.values())
    # The published converter counts headers too.
    if stated is not None and stated not in (data, directory.weight_bytes):
        file = directory.path / directory.index.name
        yield InvalidFileError(file, "metadata.total_size", describe(stated), f"{data} bytes")


def _foreign_tensors(directory: ModelDirectory) -> Iterator[DirectoryError]:
    for name, tensor in directory.tensors.items():
        if name.rpartition(".")[2] in _FOREIGN_PARTS:
            yield InvalidFileError(tensor.file, name, "a tensor of another format", "none")


def _quantization_errors(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """`quantization` has group size, bits and mode at the top and for modules, and nothing else."""
    file = directory.path / CONFIG_FILE
    quantization = section(directory.config, "quantization")
    paths = set(directory.quantized_paths())
    for key, found in quantization.items():
        field = f"quantization.{key}"
        if key in _ENTRY_KEYS or (found is False and key not in modules):
            continue
        if not isinstance(found, dict):
            # Swift programs read every further key as a module.
            yield InvalidFileError(file, field, describe(found), "entries of modules only")
        elif key not in paths:
            yield InvalidFileError(file, field, "an entry", "a quantized module of this path")
        elif cast(dict[str, Any], found).keys() - _ENTRY_KEYS:
            surplus = sorted(cast(dict[str, Any], found).keys() - _ENTRY_KEYS)
            # mlx passes every key on to a function that does not know it.
            yield InvalidFileError(file, f"{field}.{surplus[0]}", "a key", f"{sorted(_ENTRY_KEYS)}")
    copy = directory.config.get("quantization_config", quantization)
    if copy != quantization:
        wanted = "a copy of quantization, or nothing"
        yield InvalidFileError(file, "quantization_config", describe(copy), wanted)


def _missing_entries(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    quantization = section(directory.config, "quantization")
    default = (quantization.get("bits"), quantization.get("group_size"))
    for path, tensor in modules.items():
        if path not in quantization and default != (tensor.bits, tensor.group_size):
            found = f"no entry for {tensor.bits} bits in groups of {tensor.group_size}"
            wanted = "one, which mlx-lm before 0.32 needs"
            file = directory.path / CONFIG_FILE
            yield InvalidFileError(file, f"quantization.{path}", found, wanted)


def _old_companions(directory: ModelDirectory) -> Iterator[DirectoryError]:
    for path in directory.quantized_paths():
        missing = [part for part in BLOCK_PARTS if f"{path}.{part}" not in directory.tensors]
        if missing:
            file = directory.tensors[f"{path}.qweight"].file
            found = f"no {', '.join(missing)}"
            yield InvalidFileError(file, path, found, "the companions that are written today")


def _scattered_modules(directory: ModelDirectory) -> Iterator[DirectoryError]:
    """Converters that go file by file want all tensors of a module in one."""
    home: dict[str, str] = {}
    for name in sorted(directory.quantized_names()):
        file = directory.tensors[name].file
        first = home.setdefault(name.rpartition(".")[0], file.name)
        if first != file.name:
            yield InvalidFileError(file, name, f"a tensor of a module in {first}", "all in one file")
