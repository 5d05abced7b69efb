"""Profiles: named tables role -> bits; the tables are in profiles.toml."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from jang_quant._errors import PlanError

DEFAULT_PROFILE: Final = "JANG_4M"


@dataclass(frozen=True)
class Profile:
    """A named table role -> bits.

    Attributes:
        name: Such as "JANG_4M".
        bits: By column: mlp, attention, embedding, head. `bits_for` gives those of a role.
        family: "jang" for the eleven profiles, "uniform" for those to compare with.
    """

    name: str
    bits: Mapping[str, int]
    family: str

    def bits_for(self, role: str) -> int | None:
        """Bits of a role of roles.toml, or of "tied embedding"; None leaves it unquantized.

        Raises:
            PlanError: If profiles.toml does not say how the role gets its bits.
        """
        sources = _bits_of_roles().get(role)
        if sources is None:
            raise PlanError(f"role: found {role!r}, expected one that profiles.toml has bits for")
        named = (self.bits[source] if isinstance(source, str) else source for source in sources)
        return max(named, default=None)


@cache
def _content() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("jang_quant").joinpath("profiles.toml").read_text())


def _bits_of_roles() -> Mapping[str, Sequence[str | int]]:
    """For each role, columns and numbers of bits of which the largest counts."""
    return _content()["roles"]


def follows_profile(role: str) -> bool:
    """Whether a role's bits depend on the profile."""
    return any(isinstance(source, str) for source in _bits_of_roles().get(role, ()))


@cache
def profiles() -> tuple[Profile, ...]:
    """All profiles, in the order of profiles.toml."""
    return tuple(
        Profile(name=name, bits=bits, family=family)
        for family, table in _content()["profiles"].items()
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
