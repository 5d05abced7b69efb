"""Profiles: named tables role -> bits; the tables are in profiles.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from jang_quant._errors import PlanError

DEFAULT_PROFILE: Final = "JANG_4M"


@dataclass(frozen=True)
class Profile:
    """A named table role -> bits.

    Attributes:
        name: Such as "JANG_4M".
        bits: By role: mlp, attention, embedding, head.
        family: "jang" for the eleven profiles, "uniform" for those to compare with.
    """

    name: str
    bits: Mapping[str, int]
    family: str


@cache
def profiles() -> tuple[Profile, ...]:
    """All profiles, in the order of profiles.toml."""
    content = tomllib.loads(resources.files("jang_quant").joinpath("profiles.toml").read_text())
    return tuple(
        Profile(name=name, bits=bits, family=family)
        for family, table in content.items()
        for name, bits in table.items()
    )


def find_profile(name: str) -> Profile:
    """The profile of a name; case does not matter, and "4M" is JANG_4M.

    Raises:
        PlanError: If there is none.
    """
    wanted = name.upper().replace("-", "_")
    for profile in profiles():
        if profile.name in (wanted, f"JANG_{wanted}"):
            return profile
    known = ", ".join(profile.name for profile in profiles())
    raise PlanError(f"profile: found {name!r}, expected one of {known}")
