"""config.json as mlx-lm reads it, from what newer writers make; see config_keys.toml."""

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, cast

_TABLE: Final = "config_keys.toml"
_TEXT: Final = "text_config"


def mlx_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with every value where mlx-lm reads it; without this, classes take their default.

    Args:
        config: The content of config.json.
    """
    table = _table()
    level = {key: value for key, value in config.items() if key not in table["unused"]}
    for entry in table["copy"]:
        _set_default(level, entry["to"], _find(level, entry["from"]))
    for entry in table["scaling"]:
        _set_default(level, entry["to"], _scaling(_find(level, entry["from"])))
    for entry in _of_class(table["values"], level):
        _rename_values(level, entry["key"], entry["new"])
    for entry in _of_class(table["null"], level):
        if entry["key"] in level:
            _set_default(level, entry["key"], entry["value"])
    inner = level.get(_TEXT)
    if isinstance(inner, dict):
        level[_TEXT] = mlx_config(cast(dict[str, Any], inner))
    return level


@cache
def _table() -> Mapping[str, Any]:
    text = resources.files(__package__ or "").joinpath(_TABLE).read_text(encoding="utf-8")
    return tomllib.loads(text)


def _of_class(
    entries: Iterable[Mapping[str, Any]], level: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if entry["model_type"] == level.get("model_type")]


def _find(value: Any, path: str) -> Any:
    """The value at `key.key…`; None where there is none."""
    key, _, rest = path.partition(".")
    if not key:
        return value
    if not isinstance(value, dict):
        return None
    entries = cast(dict[str, Any], value)
    chosen = entries.values() if key == "*" else (entries.get(key),)
    found = (_find(entry, rest) for entry in chosen)
    return next((entry for entry in found if entry is not None), None)


def _set_default(level: dict[str, Any], key: str, value: Any) -> None:
    if value is not None and level.get(key) is None:
        level[key] = value


def _scaling(parameters: Any) -> dict[str, Any] | None:
    """What a table of RoPE parameters says about scaling; None where it says none."""
    if not isinstance(parameters, dict):
        return None
    table = cast(dict[str, Any], parameters)
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return None
    rest = {key: value for key, value in table.items() if key != "rope_theta"}
    return rest | {"rope_type": kind, "type": kind}


def _rename_values(level: dict[str, Any], key: str, new: Mapping[str, str]) -> None:
    values = level.get(key)
    if isinstance(values, list):
        level[key] = [new.get(value, value) for value in cast(list[str], values)]
