"""Sizes that config.json states, for files that do not state their own shapes."""

import math
import tomllib
from collections import ChainMap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

_TABLE: Final = "sizes.toml"


def input_sizes(config: Mapping[str, Any]) -> set[int]:
    """Every number of inputs that a matrix of the model can have, as far as the config tells."""
    return set(_inputs(config, _rules()))


def module_inputs(path: str, config: Mapping[str, Any]) -> list[int]:
    """The numbers of inputs that a module can have by the last name of its path, likely ones first.

    Empty where the name is not known.
    """
    return list(_inputs(config, _rules_of(path)))


def guess_shape(path: str, values: int, config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of a module's matrix with so many values; None where the config does not tell."""
    parents = path.split(".")[:-1]
    for section in _sections(config):
        for inputs in _section_inputs(section, _rules_of(path)):
            shape = _divide(values, inputs, _experts(section, parents))
            if shape is not None:
                return shape
    return None


def _divide(values: int, inputs: int, experts: int | None) -> tuple[int, ...] | None:
    if values % (inputs * (experts or 1)):
        return None
    rows = values // inputs
    return (experts, rows // experts, inputs) if experts else (rows, inputs)


def _experts(section: Mapping[str, Any], parents: list[str]) -> int | None:
    """How many experts are stacked in a module; None where one matrix stands alone."""
    if not parents or parents[-1] not in ("experts", "switch_mlp"):
        return None
    counts = (section.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    return next((count for count in counts if type(count) is int and count > 0), None)


def _inputs(config: Mapping[str, Any], rules: list[dict[str, Any]]) -> Iterator[int]:
    for section in _sections(config):
        yield from _section_inputs(section, rules)


def _section_inputs(section: Mapping[str, Any], rules: list[dict[str, Any]]) -> Iterator[int]:
    for rule in rules:
        for keys in rule["inputs"]:
            size = _product(section, keys)
            if size is not None:
                yield size


def _product(section: Mapping[str, Any], keys: list[str]) -> int | None:
    sizes = [section.get(key) for key in keys]
    if not all(type(size) is int and 0 < size < 2**32 for size in sizes):
        return None
    return math.prod(cast(list[int], sizes))


def _sections(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config, and what it says of its language model alone; with head_dim as a default."""
    text = config.get("text_config")
    for found in (config, text):
        if isinstance(found, dict):
            section = cast(dict[str, Any], found)
            hidden, heads = (section.get(key) for key in ("hidden_size", "num_attention_heads"))
            if type(hidden) is int and type(heads) is int and heads > 0:
                # Not a copy: a config may be large, and is asked once for each module.
                yield ChainMap(section, {"head_dim": hidden // heads})
            else:
                yield section


def _rules_of(path: str) -> list[dict[str, Any]]:
    *parents, leaf = path.split(".")
    return [
        rule
        for rule in _rules()
        if leaf in rule["leaves"] and ("under" not in rule or set(rule["under"]) & set(parents))
    ]


@cache
def _rules() -> list[dict[str, Any]]:
    table = tomllib.loads(files("jang_format").joinpath(_TABLE).read_text())
    return table["rule"]
