"""The best plan under a budget: one option for each module, the least damage, not too many bytes.

This is a multiple-choice knapsack. For each price of a byte every module takes the option with the
least damage plus price; the price is found by bisection so that the bytes just fit (Shoham and
Gersho, 1988). What is left of the budget then goes, step by step, where it saves most. At each
price the sum is also a bound that no plan can undercut, so the distance from the best is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jang_quant._errors import PlanError
from jang_quant._sensitivity import Option

_BISECTIONS: Final = 80

Table = Mapping[str, Sequence[Option]]


@dataclass(frozen=True)
class Choice:
    """A plan's options.

    Attributes:
        options: By module path.
        nbytes: Bytes of them all.
        damage: Estimated damage of them all.
        bound: No choice within the budget has less damage than this.
    """

    options: Mapping[str, Option]
    nbytes: int
    damage: float
    bound: float


def choose(table: Table, budget: int) -> Choice:
    """Choose an option for every module so that the bytes stay within a budget.

    Args:
        table: The options of each module, by module path.
        budget: Bytes for all of them.

    Raises:
        PlanError: If even the smallest options are too large.
    """
    least = {path: min(options, key=lambda o: o.nbytes) for path, options in table.items()}
    if _bytes(least) > budget:
        raise PlanError(
            f"budget: found {budget:,} bytes for the modules, expected at least {_bytes(least):,}"
        )
    best, low, high = least, 0.0, _highest_price(table)
    bound = 0.0
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        taken = {path: _cheapest(options, price) for path, options in table.items()}
        bound = max(bound, _damage(taken) + price * (_bytes(taken) - budget))
        if _bytes(taken) <= budget:
            high = price
            if _damage(taken) < _damage(best):
                best = taken
        else:
            low = price
    best = _spend(table, best, budget)
    return Choice(best, _bytes(best), _damage(best), min(bound, _damage(best)))


def _cheapest(options: Sequence[Option], price: float) -> Option:
    return min(options, key=lambda option: (option.damage + price * option.nbytes, option.nbytes))


def _highest_price(table: Table) -> float:
    """A price at which every module takes its smallest option."""
    damages = [option.damage for options in table.values() for option in options]
    return 2 * max(damages, default=0.0) + 1.0


def _spend(table: Table, chosen: Mapping[str, Option], budget: int) -> dict[str, Option]:
    """Spend what is left where a byte saves most, until nothing fits."""
    best = dict(chosen)
    left = budget - _bytes(best)
    while True:
        steps = [
            (
                (best[path].damage - option.damage) / (option.nbytes - best[path].nbytes),
                path,
                option,
            )
            for path, options in table.items()
            for option in options
            if 0 < option.nbytes - best[path].nbytes <= left and option.damage < best[path].damage
        ]
        if not steps:
            return best
        _, path, option = max(steps, key=lambda step: (step[0], step[1], step[2].nbytes))
        left -= option.nbytes - best[path].nbytes
        best[path] = option


def _bytes(chosen: Mapping[str, Option]) -> int:
    return sum(option.nbytes for option in chosen.values())


def _damage(chosen: Mapping[str, Option]) -> float:
    return sum(option.damage for option in chosen.values())
