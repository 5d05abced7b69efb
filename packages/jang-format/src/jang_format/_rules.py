"""Rules about what describes the weights: manifest, config.json and index against the tensors.

Opening a directory settles whether it can be read; these say whether everyone reads the same.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from jang_format._block_layout import BLOCK_SIZE, block_specs
from jang_format._block_layout import PARTS as BLOCK_PARTS
from jang_format._dtypes import FLOATS
from jang_format._errors import DirectoryError, InvalidFileError, MissingFileError, describe
from jang_format._files import read_json
from jang_format._json import section
from jang_format._layouts import BLOCK_LAYOUT, MLX_LAYOUT
from jang_format._manifest import FORMAT, MANIFEST_FILE, major_version
from jang_format._packing import BIT_WIDTHS
from jang_format._quantized import GROUP_SIZES, QuantizedTensor
from jang_format._reader import CONFIG_FILE, ModelDirectory, attempt
from jang_format._safetensors import lay_out
from jang_format._writer import DEFAULT_SHARD_BYTES

Modules = Mapping[str, QuantizedTensor]

_ENTRY_KEYS: Final = {"bits", "group_size", "mode"}
# Companions of other formats; stock loaders are strict about tensors that a model does not have.
_FOREIGN_PARTS: Final = ("awq_scales", "importance", "tq_packed", "tq_norms", "tq_bits")
# Parts that stand for nothing alone.
_ORPHANS: Final = {
    "mlx": ("scales", "biases"),
    "blocks": ("scales", "zeros", "bit_map", "block_offsets"),
}


def description_errors(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """The rules that every directory has to keep."""
    yield from _manifest_errors(directory, modules)
    yield from _index_errors(directory)
    yield from _foreign_tensors(directory)
    if directory.layout is MLX_LAYOUT:
        yield from _quantization_errors(directory, modules)
    else:
        for key in ("quantization", "quantization_config"):
            if key in directory.config:
                file = directory.path / CONFIG_FILE
                found = "an entry, which MLX programs would follow"
                yield InvalidFileError(file, key, found, "none in block layout")


def description_warnings(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """What our reader copes with and others may not; old directories are full of it."""
    if directory.manifest and directory.manifest_file != MANIFEST_FILE:
        file = directory.path / directory.manifest_file
        yield InvalidFileError(file, "file name", directory.manifest_file, MANIFEST_FILE)
    if directory.index is None:
        wanted = "an index, which distributed loaders want"
        yield MissingFileError(directory.path / directory.layout.index, "file", "nothing", wanted)
    yield from _stale_facts(directory, modules)
    yield from _odd_weight_files(directory)
    yield from _scattered_modules(directory)
    yield from _odd_types(directory, modules)
    if directory.layout is BLOCK_LAYOUT:
        yield from _old_companions(directory)
        yield from _old_forms(directory, modules)
    else:
        yield from _missing_entries(directory, modules)


def _manifest_errors(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    manifest, file = directory.manifest, directory.path / directory.manifest_file
    if directory.manifest_file not in directory.file_names:
        yield MissingFileError(file, "file", "nothing", "a manifest")
        return
    if not manifest and attempt(lambda: read_json(file), None, _told_already) is None:
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
    yield from _wrong_claims(directory, modules, file)


def _wrong_claims(
    directory: ModelDirectory, modules: Modules, file: Path
) -> Iterator[DirectoryError]:
    """What the manifest says of modules, against the modules."""
    paths = set(directory.quantized_paths())
    for path, role in section(directory.manifest, "roles").items():
        if path not in paths:
            yield InvalidFileError(file, f"roles.{path}", "a role", "a quantized module")
        if not isinstance(role, str):
            yield InvalidFileError(file, f"roles.{path}", describe(role), "a string")
    stated = section(directory.manifest, "quantization").get("bit_widths_used")
    widths = sorted({int(w) for tensor in modules.values() for w in np.unique(tensor.bit_map)})
    # Widths of modules that are broken are not known.
    if stated is not None and stated != widths and len(modules) == len(paths):
        yield InvalidFileError(
            file, "quantization.bit_widths_used", describe(stated), f"{widths}, as the tensors have"
        )


def _told_already(problem: DirectoryError) -> None:
    """A problem that opening the directory has reported."""


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
    for name in sorted(directory.tensors.keys() - directory.quantized_names()):
        path, _, part = name.rpartition(".")
        if part in _ORPHANS[directory.layout.name]:
            file = directory.tensors[name].file
            yield InvalidFileError(file, name, "a part of a module", f"{path} with all its parts")


def _quantization_errors(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """`quantization` has group size, bits and mode at the top and for modules, and nothing else."""
    file = directory.path / CONFIG_FILE
    stated = directory.config.get("quantization", {})
    if not isinstance(stated, dict):
        wanted = "an object with bits and group_size"
        yield InvalidFileError(file, "quantization", describe(stated), wanted)
    quantization = section(directory.config, "quantization")
    if quantization:
        yield from _default_errors(file, quantization)
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


def _default_errors(file: Path, quantization: Mapping[str, Any]) -> Iterator[DirectoryError]:
    """Stock programs read the top level first, whatever stands below it."""
    for key, allowed in (("bits", BIT_WIDTHS), ("group_size", GROUP_SIZES), ("mode", ("affine",))):
        found = quantization.get(key, "affine" if key == "mode" else None)
        if type(found) not in (int, str) or found not in allowed:
            wanted = " or ".join(map(repr, allowed))
            yield InvalidFileError(file, f"quantization.{key}", describe(found), wanted)


def _missing_entries(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    quantization = section(directory.config, "quantization")
    default = (quantization.get("bits"), quantization.get("group_size"))
    file = directory.path / CONFIG_FILE
    if "quantization_config" in directory.config:
        yield InvalidFileError(file, "quantization_config", "a key", "none, there is quantization")
    for path, tensor in modules.items():
        entry = quantization.get(path, {"mode": None})
        if isinstance(entry, dict) and "mode" not in entry:
            yield InvalidFileError(file, f"quantization.{path}.mode", "nothing", "'affine'")
        if path not in quantization and default != (tensor.bits, tensor.group_size):
            found = f"no entry for {tensor.bits} bits in groups of {tensor.group_size}"
            wanted = "one, which mlx-lm before 0.32 needs"
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
            yield InvalidFileError(
                file, name, f"a tensor of a module in {first}", "all in one file"
            )


def _stale_facts(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """What the manifest repeats from elsewhere; readers go by the other place."""
    manifest, file = directory.manifest, directory.path / directory.manifest_file
    paths = directory.quantized_paths()
    facts = {
        "architecture.type": directory.config.get("model_type"),
        "runtime.total_weight_bytes": directory.weight_bytes,
    }
    if modules and len(modules) == len(paths):
        facts["quantization.block_size"] = max(tensor.group_size for tensor in modules.values())
    for field, fact in facts.items():
        key, _, entry = field.partition(".")
        stated = section(manifest, key).get(entry, fact)
        if stated != fact:
            yield InvalidFileError(file, field, describe(stated), describe(fact))
    roles = section(manifest, "roles")
    for path in paths:
        if roles and path not in roles:
            yield InvalidFileError(file, f"roles.{path}", "nothing", "a role")


def _odd_weight_files(directory: ModelDirectory) -> Iterator[DirectoryError]:
    for name, weight_file in directory.weight_files.items():
        file = directory.path / name
        if dict(weight_file.metadata) != directory.layout.metadata:
            found = describe(dict(weight_file.metadata))
            yield InvalidFileError(file, "__metadata__", found, str(directory.layout.metadata))
        stored = sorted(weight_file.tensors.values(), key=lambda tensor: tensor.offset)
        specs = [tensor.spec for tensor in stored]
        if [spec.name for spec in specs] != list(lay_out(specs, {}).offsets):
            wanted = "wide types first, then by name"
            yield InvalidFileError(file, "data_offsets", "tensors in another order", wanted)
        nbytes = sum(spec.nbytes for spec in specs)
        if nbytes > DEFAULT_SHARD_BYTES and len({s.name.rpartition(".")[0] for s in specs}) > 1:
            wanted = f"at most {DEFAULT_SHARD_BYTES} for several modules"
            yield InvalidFileError(file, "size", f"{nbytes} bytes of data", wanted)


def _odd_types(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    """Types that stock programs read, but not as this format means them."""
    quantized = directory.quantized_names()
    for name, tensor in directory.tensors.items():
        if name not in quantized and tensor.spec.dtype not in FLOATS:
            wanted = f"one of {FLOATS} for what is not quantized"
            yield InvalidFileError(tensor.file, f"{name}.dtype", tensor.spec.dtype, wanted)
    for path, tensor in modules.items():
        if tensor.dtype == "F32" and directory.layout is MLX_LAYOUT:
            file = directory.tensors[f"{path}.scales"].file
            yield InvalidFileError(file, f"{path}.scales.dtype", "F32", "16 bits")


def _old_forms(directory: ModelDirectory, modules: Modules) -> Iterator[DirectoryError]:
    for path, tensor in modules.items():
        if tensor.group_size != BLOCK_SIZE:
            file = directory.tensors[f"{path}.qweight"].file
            wanted = f"blocks of {BLOCK_SIZE}"
            yield InvalidFileError(file, path, f"blocks of {tensor.group_size}", wanted)
            continue
        for spec in block_specs(path, tensor.shape, tensor.packed.nbytes):
            stored = directory.tensors.get(spec.name)
            if stored is not None and stored.spec != spec:
                found = f"{stored.spec.dtype} {list(stored.spec.shape)}"
                wanted = f"{spec.dtype} {list(spec.shape)}"
                yield InvalidFileError(stored.file, spec.name, found, wanted)
