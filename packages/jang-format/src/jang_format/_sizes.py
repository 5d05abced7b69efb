"""Sizes that config.json states: of the model, and of files that do not state their own shapes."""

import math
import tomllib
from collections import ChainMap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

from jang_format._errors import InvalidFileError, describe
from jang_format._json import section

_TABLE: Final = "sizes.toml"
# Where a model that sees or hears describes its language model.
_TEXT: Final = "text_config"


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
    for part in _parts(config):
        for inputs in _part_inputs(part, _rules_of(path)):
            shape = _divide(values, inputs, _experts(part, parents))
            if shape is not None:
                return shape
    return None


def text_size(config: Mapping[str, Any], *keys: str) -> int | None:
    """A size of the language model, such as `vocab_size`; None where the config has none.

    Models that see or hear describe their language model in `text_config`; what is there goes
    before what is at the top. Null and 0 state nothing.

    Args:
        config: The content of config.json.
        keys: Names of the size, of which the first that is there counts.

    Raises:
        InvalidFileError: If what is there is no whole number of 1 or more.
    """
    for part in (section(config, _TEXT), config):
        for key in keys:
            found = part.get(key)
            if not found:
                continue
            if type(found) is not int or found < 1:
                raise InvalidFileError("config.json", key, describe(found), "1 or more")
            return found
    return None


def _divide(values: int, inputs: int, experts: int | None) -> tuple[int, ...] | None:
    if values % (inputs * (experts or 1)):
        return None
    rows = values // inputs
    return (experts, rows // experts, inputs) if experts else (rows, inputs)


def _experts(part: Mapping[str, Any], parents: list[str]) -> int | None:
    """How many experts are stacked in a module; None where one matrix stands alone."""
    if not parents or parents[-1] not in ("experts", "switch_mlp"):
        return None
    counts = (part.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    return next((count for count in counts if type(count) is int and count > 0), None)


def _inputs(config: Mapping[str, Any], rules: list[dict[str, Any]]) -> Iterator[int]:
    for part in _parts(config):
        yield from _part_inputs(part, rules)


def _part_inputs(part: Mapping[str, Any], rules: list[dict[str, Any]]) -> Iterator[int]:
    for rule in rules:
        for keys in rule["inputs"]:
            size = _product(part, keys)
            if size is not None:
                yield size


def _product(part: Mapping[str, Any], keys: list[str]) -> int | None:
    sizes = [part.get(key) for key in keys]
    if not all(type(size) is int and 0 < size < 2**32 for size in sizes):
        return None
    return math.prod(cast(list[int], sizes))


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config, and what it says of its language model alone; with head_dim as a default."""
    for part in (config, section(config, _TEXT)):
        hidden, heads = (part.get(key) for key in ("hidden_size", "num_attention_heads"))
        if type(hidden) is int and type(heads) is int and heads > 0:
            # Not a copy: a config may be large, and is asked once for each module.
            yield ChainMap(cast(dict[str, Any], part), {"head_dim": hidden // heads})
        else:
            yield part


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
