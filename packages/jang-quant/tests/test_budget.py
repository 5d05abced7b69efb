"""The best plan under a budget, against all plans that there are."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jang_quant._budget import choose
from jang_quant._errors import PlanError
from jang_quant._sensitivity import Option


def options(sizes: list[int], damages: list[float]) -> list[Option]:
    """Larger options do less damage, as a rule."""
    ordered = zip(sorted(set(sizes)), sorted(damages, reverse=True), strict=False)
    return [Option(4, 64, size, damage) for size, damage in ordered]


tables = st.lists(
    st.builds(
        options,
        st.lists(st.integers(1, 200), min_size=1, max_size=4),
        st.lists(st.floats(1e-6, 10), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=5,
).map(lambda modules: {f"m{n}": found for n, found in enumerate(modules)})


@given(table=tables, share=st.floats(0, 1.1))
def test_the_choice_fits_and_is_as_near_to_the_best_as_its_bound_says(
    table: dict[str, list[Option]], share: float
) -> None:
    smallest = sum(found[0].nbytes for found in table.values())
    largest = sum(found[-1].nbytes for found in table.values())
    budget = smallest + int(share * (largest - smallest))
    choice = choose(table, budget)
    assert choice.nbytes == sum(option.nbytes for option in choice.options.values()) <= budget
    assert choice.damage == pytest.approx(sum(o.damage for o in choice.options.values()))
    fitting = [
        sum(option.damage for option in plan)
        for plan in product(*table.values())
        if sum(option.nbytes for option in plan) <= budget
    ]
    assert choice.bound <= min(fitting) * (1 + 1e-6) + 1e-9
    assert min(fitting) <= choice.damage * (1 + 1e-9)
    if budget >= largest:
        assert choice.damage == pytest.approx(min(fitting))
    # Nothing that helps fits into what is left.
    for path, taken in choice.options.items():
        for option in table[path]:
            if option.damage < taken.damage:
                assert option.nbytes - taken.nbytes > budget - choice.nbytes


def test_many_modules_come_within_a_thousandth_of_the_bound() -> None:
    table = {
        f"m{n}": [
            Option(bits, 64, (bits * 64 + 32) * (n % 7 + 1), (n % 11 + 1) * 4.0**-bits)
            for bits in (2, 3, 4, 5, 6, 8)
        ]
        for n in range(300)
    }
    total = sum(found[2].nbytes for found in table.values())
    choice = choose(table, total)
    assert total * 0.9995 < choice.nbytes <= total
    assert choice.damage <= choice.bound * 1.001


def test_a_budget_below_the_smallest_options_is_refused_with_what_is_needed() -> None:
    table = {"m": [Option(2, 64, 1000, 1.0)]}
    with pytest.raises(PlanError, match="found 999 bytes for the modules, expected at least 1,000"):
        choose(table, 999)
