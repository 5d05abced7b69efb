"""The index of a directory: which tensor is in which weight file, held against the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jang_format._errors import InvalidFileError, MissingFileError, Report, describe, printable
from jang_format._files import read_json
from jang_format._layouts import LAYOUTS, Layout
from jang_format._safetensors import WeightFile


@dataclass(frozen=True)
class Index:
    """An index file.

    Attributes:
        name: File name.
        weight_map: File name of each tensor.
        metadata: What it says besides.
    """

    name: str
    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any]


def read_index(directory: Path, names: list[str], layout: Layout, report: Report) -> Index | None:
    """The index of a directory with these files; None without one.

    Raises:
        InvalidFileError: If it is no JSON object.
    """
    name = next((name for name in layout.readable_indexes if name in names), None)
    if name is None:
        return None
    file = directory / name
    content = read_json(file)
    found, metadata = content.get("weight_map"), content.get("metadata", {})
    if not isinstance(found, dict):
        report(InvalidFileError(file, "weight_map", describe(found), "an object of file names"))
        found = {}
    if not isinstance(metadata, dict):
        report(InvalidFileError(file, "metadata", describe(metadata), "an object"))
        metadata = {}
    weight_map: dict[str, str] = {}
    for tensor, shard in cast(dict[str, Any], found).items():
        if isinstance(shard, str):
            weight_map[tensor] = shard
        else:
            field = f"weight_map.{tensor}"
            report(InvalidFileError(file, field, describe(shard), "a file name"))
    return Index(name=name, weight_map=weight_map, metadata=cast(dict[str, Any], metadata))


def shard_names(
    directory: Path, names: list[str], layout: Layout, index: Index | None, report: Report
) -> list[str]:
    """The weight files to read: those of the index, or all where there is none."""
    present = {name for name in names if any(known.is_shard(name) for known in LAYOUTS.values())}
    if index is None:
        shards = {name for name in present if layout.is_shard(name)}
    else:
        shards = _indexed_shards(directory, names, layout, index, report)
    for name in sorted(present - shards):
        # Stock loaders read it, and its tensors would mix with those of the others.
        wanted = f"none, {index.name} does not name it" if index else "weight files of one layout"
        report(InvalidFileError(directory / name, "file", "a weight file", wanted))
    return sorted(shards)


def _indexed_shards(
    directory: Path, names: list[str], layout: Layout, index: Index, report: Report
) -> set[str]:
    file = directory / index.name
    shards: set[str] = set()
    present = set(names)
    for name, tensor in sorted({shard: t for t, shard in index.weight_map.items()}.items()):
        if not layout.is_shard(name) or "/" in name or "\\" in name:
            field = f"weight_map.{tensor}"
            wanted = f"a file name like {layout.readable_shards[0]}"
            report(InvalidFileError(file, field, describe(name), wanted))
        elif name not in present:
            report(
                MissingFileError(directory / name, "file", "nothing", f"a file, by {index.name}")
            )
        else:
            shards.add(name)
    return shards


def check_names(
    directory: Path, weight_files: Mapping[str, WeightFile], index: Index | None, report: Report
) -> None:
    """Each tensor is in one weight file, and in the one that the index says."""
    holder: dict[str, str] = {}
    for shard, weight_file in weight_files.items():
        for name in weight_file.tensors:
            if name in holder:
                wanted = f"none, {printable(holder[name])} has it"
                report(InvalidFileError(directory / shard, name, "a tensor", wanted))
            holder[name] = shard
    if index is None:
        return
    file = directory / index.name
    for name, shard in index.weight_map.items():
        if shard in weight_files and holder.get(name) != shard:
            found = f"{shard}, which does not have it"
            wanted = printable(holder[name]) if name in holder else "no entry"
            report(InvalidFileError(file, f"weight_map.{name}", found, wanted))
    for name, shard in holder.items():
        if name not in index.weight_map:
            report(InvalidFileError(file, f"weight_map.{name}", "nothing", printable(shard)))
