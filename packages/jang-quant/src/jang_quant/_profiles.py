"""Profiles: named tables role -> bits; the tables are in profiles.toml."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from jang_quant._errors import PlanError

DEFAULT_PROFILE: Final = "JANG_4M"

ProfileTable = Literal["jang", "published"]


@dataclass(frozen=True)
class Profile:
    """A named table role -> bits.

    Attributes:
        name: Such as "JANG_4M".
        bits: By column: mlp, attention, embedding, head. `bits_for` gives those of a role.
        family: "jang" for the eleven profiles, "published" for what the published package makes of
            their names, "uniform" for the same bits everywhere.
    """

    name: str
    bits: Mapping[str, int]
    family: str

    @property
    def title(self) -> str:
        """The name, and whose it is where that is not ours."""
        return f"{self.name} ({self.family})" if self.family == "published" else self.name

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


def find_profile(name: str, table: ProfileTable = "jang") -> Profile:
    """The profile of a name; case does not matter, and "4M" is JANG_4M.

    Args:
        name: The name.
        table: Whose table the eleven names are looked up in.

    Raises:
        PlanError: If there is none.
    """
    wanted = name.upper().replace("-", "_")
    known = [profile for profile in profiles() if profile.family in (table, "uniform")]
    for profile in known:
        if profile.name in (wanted, f"JANG_{wanted}"):
            return profile
    names = ", ".join(profile.name for profile in known)
    raise PlanError(f"profile: found {name!r}, expected one of {names}")
