"""The role of each part of a model, from its path; the rules are in roles.toml."""

import re
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jang_quant._errors import PlanError


@dataclass(frozen=True)
class _Rule:
    """One rule of roles.toml, whose head says what the fields are."""

    role: str
    pattern: re.Pattern[str]
    beside: str | None

    def fits(self, path: str, modules: Container[str]) -> bool:
        match = self.pattern.fullmatch(path)
        if match is None:
            return False
        return self.beside is None or match.expand(self.beside) in modules


@dataclass(frozen=True)
class _Rules:
    modules: tuple[_Rule, ...]
    parameters: tuple[_Rule, ...]


@cache
def _rules() -> _Rules:
    content = tomllib.loads(resources.files("jang_quant").joinpath("roles.toml").read_text())
    paths: dict[str, str] = {}
    for name, pattern in content["paths"].items():
        paths[name] = _expand(pattern, paths)
    return _Rules(
        modules=tuple(_rule(entry, paths) for entry in content["module"]),
        parameters=tuple(_rule(entry, paths) for entry in content["parameter"]),
    )


def _rule(entry: Mapping[str, Any], paths: Mapping[str, str]) -> _Rule:
    pattern = re.compile(_expand(entry["pattern"], paths))
    return _Rule(role=entry["role"], pattern=pattern, beside=entry.get("beside"))


def _expand(pattern: str, paths: Mapping[str, str]) -> str:
    for name, part in paths.items():
        pattern = pattern.replace(f"{{{name}}}", part)
    return pattern


def role_of(path: str, modules: Container[str] = ()) -> str:
    """The role of a module, such as "attention".

    Args:
        path: Module path.
        modules: Paths of all modules of the model, for the rules that look at a neighbour.

    Raises:
        PlanError: If no rule knows the module.
    """
    for rule in _rules().modules:
        if rule.fits(path, modules):
            return rule.role
    raise PlanError(
        f"{path}: no role is known for this module, expected one that roles.toml names; "
        "this architecture is not supported yet"
    )


def parameter_role(path: str) -> str:
    """The role of a parameter that no quantized module can hold, such as "norm"."""
    return next(rule.role for rule in _rules().parameters if rule.fits(path, ()))
