"""The role of a module, from its path; the rules are in roles.toml."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jang_quant._errors import PlanError


@dataclass(frozen=True)
class _Rule:
    role: str
    pattern: re.Pattern[str]


@cache
def _rules() -> tuple[_Rule, ...]:
    content = tomllib.loads(resources.files("jang_quant").joinpath("roles.toml").read_text())
    layer: str = content["layer"]
    return tuple(
        _Rule(rule["role"], re.compile(rule["pattern"].replace("{layer}", layer)))
        for rule in content["rule"]
    )


def role_of(path: str) -> str:
    """The role of a module, such as "attention".

    Raises:
        PlanError: If no rule knows the module.
    """
    for rule in _rules():
        if rule.pattern.fullmatch(path):
            return rule.role
    raise PlanError(
        f"{path}: no role is known for this module, expected one that roles.toml names; "
        "this architecture is not supported yet"
    )
