"""Which models are made and held against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from peers import Peer, mlx_lm_gptq, published, recipe, uniform

TEXTS: Final = ("c4", "self")


@dataclass(frozen=True)
class Comparison:
    """A budget of ours, the uniform width that it is held against, and the ratio to reach."""

    bits: float
    uniform: int
    to_reach: float

    def ours(self, text: str) -> str:
        """Name of our model, calibrated on "c4" or "self"."""
        return f"ours-{self.bits}-{text}"


@dataclass(frozen=True)
class Selection:
    """Models of ours and of other programs.

    Attributes:
        comparisons: Those by bits.
        others: Those whose bytes ours get.
    """

    comparisons: Sequence[Comparison]
    others: Sequence[Peer]

    @property
    def uniform(self) -> list[Peer]:
        """The models that ours by bits are held against."""
        return [uniform(each.uniform) for each in self.comparisons]

    @property
    def names(self) -> list[str]:
        """Of all models, in the order of the pages."""
        by_bits = [each.ours(text) for each in self.comparisons for text in TEXTS]
        theirs = [peer.name for peer in [*self.uniform, *self.others]]
        return theirs + by_bits + [peer.ours for peer in self.others]


EVERYTHING: Final = Selection(
    comparisons=(
        Comparison(2.8, 2, 0.13),
        Comparison(3.5, 3, 0.28),
        Comparison(4.5, 4, 0.26),
        Comparison(5.5, 6, 1.0),
    ),
    others=(
        *(recipe(name) for name in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")),
        # 8 bits as well, where there is nothing to see.
        *(mlx_lm_gptq(bits) for bits in (2, 4)),
        *(published(profile) for profile in ("JANG_2S", "JANG_3K", "JANG_4K")),
    ),
)
# One of each kind, for a rehearsal.
QUICK: Final = Selection(
    comparisons=EVERYTHING.comparisons[2:3],
    others=(recipe("mixed_4_6"), mlx_lm_gptq(4), published("JANG_4K")),
)
