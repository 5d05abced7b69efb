"""The architectures of llama.cpp that can be converted: gguf_architectures.toml as dataclasses."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from jang_quant._sources.gguf_header import GgufHeader, mismatch

_TABLE: Final = "gguf_architectures.toml"


@dataclass(frozen=True)
class TensorRule:
    """What becomes of one kind of tensor.

    Attributes:
        to: Its path in the MLX model, with {n} for the layer.
        shape: The names of its dimensions, rows first.
        transform: What has to be done to its values, by name.
    """

    to: str
    shape: tuple[str, ...]
    transform: str | None


@dataclass(frozen=True)
class OptionalTensors:
    """Tensors that a file has all of or none of.

    Attributes:
        present: The value of the config key when the file has them.
        tensors: Rules by GGUF name.
    """

    present: bool
    tensors: Mapping[str, TensorRule]


@dataclass(frozen=True)
class Override:
    """Other sources for some config keys, for files that say something else.

    Attributes:
        when: The key and the value that it must have; absent counts as 0.
        integers: As in Architecture.
    """

    when: Mapping[str, int]
    integers: Mapping[str, Sequence[str | int]]


@dataclass(frozen=True)
class Architecture:
    """One table of the file, whose head says what each field is."""

    name: str
    model_type: str
    class_name: str
    dtype: str
    rope_scaling: Sequence[str]
    unused: frozenset[str]
    integers: Mapping[str, Sequence[str | int]]
    numbers: Mapping[str, Sequence[str | float]]
    overrides: Sequence[Override]
    constants: Mapping[str, Any]
    must_equal: Mapping[str, str | float | bool]
    tensors: Mapping[str, TensorRule]
    optional: Mapping[str, OptionalTensors]


def find_architecture(header: GgufHeader) -> Architecture:
    """The architecture of a file.

    Raises:
        SourceError: If there is no table for it.
    """
    known = _architectures()
    if header.architecture not in known:
        raise mismatch(
            header.path,
            "general.architecture",
            repr(header.architecture),
            f"one of {', '.join(sorted(known))}",
        )
    return known[header.architecture]


@functools.cache
def _architectures() -> dict[str, Architecture]:
    text = resources.files(__package__ or "").joinpath(_TABLE).read_text(encoding="utf-8")
    document = tomllib.loads(text)
    common_unused: list[str] = document["common_unused"]
    return {
        name: _architecture(name, table, common_unused)
        for name, table in document["architectures"].items()
    }


def _architecture(name: str, table: Mapping[str, Any], common_unused: list[str]) -> Architecture:
    return Architecture(
        name=name,
        model_type=table["model_type"],
        class_name=table["class_name"],
        dtype=table["dtype"],
        rope_scaling=table["rope_scaling"],
        unused=frozenset(common_unused).union(table["unused"]),
        integers=table["integers"],
        numbers=table["numbers"],
        overrides=[Override(**entry) for entry in table.get("overrides", [])],
        constants=table["constants"],
        must_equal=table["must_equal"],
        tensors=_rules(table["tensors"]),
        optional={
            key: OptionalTensors(present=entry["present"], tensors=_rules(entry["tensors"]))
            for key, entry in table["optional"].items()
        },
    )


def _rules(table: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorRule]:
    return {
        name: TensorRule(
            to=entry["to"], shape=tuple(entry["shape"]), transform=entry.get("transform")
        )
        for name, entry in table.items()
    }
