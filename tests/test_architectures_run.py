"""Every architecture runs at mixed widths and gives the logits of stock mlx-lm.

The models are those of jang-quant's architectures.json: tiny, random, under the names in which such
checkpoints are published; vision models run as text.
"""

import re
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from conftest import write_byte_tokenizer
from jang_format import BIT_WIDTHS, GROUP_SIZES, read_directory
from jang_quant import convert, find_profile, open_source, plan_source
from jang_runtime._model import load
from jang_runtime.architecture import build_model, quantizable_modules

HELPERS = run_path(
    str(Path(__file__).parents[1] / "packages" / "jang-quant" / "tests" / "checkpoints.py")
)
ARCHITECTURES: dict[str, dict[str, Any]] = HELPERS["ARCHITECTURES"]
PAIRS = tuple(product(BIT_WIDTHS, GROUP_SIZES))

# Longer than the sliding windows, whose size is 8; then several steps through the cache.
PROMPT = (5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300)
NEXT = (44, 7, 256, 101)
# Of the largest logit: the same sums in another order.
TOLERANCE = 1e-4

# Heads that mlx-lm's class has, and drops where the checkpoint, like those published, has none.
HEADLESS = defaultdict(set[str], {"gemma3_text": {"lm_head"}, "gemma3": {"language_model.lm_head"}})


def chosen_pairs(name: str) -> dict[str, tuple[int, int]]:
    """Bits and group size for each module of a model whose width has groups; by module path."""
    start = 5 * list(ARCHITECTURES).index(name)
    modules = quantizable_modules(build_model(ARCHITECTURES[name]["config"]))
    chosen: dict[str, tuple[int, int]] = {}
    for number, (path, shape) in enumerate(modules.items(), start):
        in_turn = PAIRS[number % len(PAIRS) :] + PAIRS[: number % len(PAIRS)]
        fitting = (pair for pair in in_turn if shape[-1] % pair[1] == 0)
        if (pair := next(fitting, None)) is not None:
            chosen[path] = pair
    return chosen


def converted(name: str, folder: Path) -> Path:
    """The model with the chosen widths, written by jang-quant."""
    checkpoint: Path = HELPERS["write_checkpoint"](folder / "source", name)
    write_byte_tokenizer(checkpoint)
    source = open_source(str(checkpoint))
    plan = plan_source(source, find_profile("4M"))
    chosen = chosen_pairs(name)
    modules = tuple(
        replace(module, bits=bits, group_size=group_size)
        for module in plan.modules
        for bits, group_size in (chosen.get(module.path, (None, None)),)
    )
    convert(source, folder / "out", replace(plan, modules=modules))
    return folder / "out"


def stored_pairs(directory: Path) -> dict[str, tuple[int, int]]:
    """Bits and group size of each quantized module as they stand in the files."""
    stored = read_directory(directory)
    modules = {path: stored.quantized(path) for path in stored.quantized_paths()}
    return {path: (module.bits, module.group_size) for path, module in modules.items()}


def logits(model: Any) -> NDArray[np.float32]:
    """Of the prompt and of each step after it, `[prompt and steps, vocabulary]`."""
    cache = make_prompt_cache(model)
    rows = [np.array(model(mx.array([PROMPT]), cache=cache)[0])]
    rows += [np.array(model(mx.array([[token]]), cache=cache)[0]) for token in NEXT]
    return np.concatenate(rows)


def stock(directory: Path) -> Any:
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_at_mixed_widths_gives_the_logits_of_stock_mlx_lm(
    name: str, tmp_path: Path
) -> None:
    directory = converted(name, tmp_path)
    chosen = chosen_pairs(name)
    assert stored_pairs(directory) == {
        path: chosen[path] for path in chosen.keys() - HEADLESS[name]
    }
    expected = logits(stock(directory))
    found = logits(load(directory).model)
    assert found.shape == (len(PROMPT) + len(NEXT), expected.shape[1])
    largest = np.abs(expected).max()
    assert 0 < largest < np.inf
    off = np.abs(found - expected).max(axis=1) / largest
    assert (off < TOLERANCE).all(), off


def test_the_architectures_have_every_width_and_group_in_every_kind_of_module() -> None:
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for name in ARCHITECTURES:
        model = build_model(ARCHITECTURES[name]["config"])
        kinds = {path: type(module).__name__ for path, module in model.named_modules()}
        for path, pair in chosen_pairs(name).items():
            found[kinds[path]].add(pair)
    for kind in ("Linear", "Embedding", "SwitchLinear"):
        assert found[kind] == set(PAIRS), kind
    # Its widths are those of heads, too narrow for groups of 128.
    assert {bits for bits, _ in found["MultiLinear"]} == set(BIT_WIDTHS)
    assert found.keys() == {"Linear", "Embedding", "SwitchLinear", "MultiLinear"}


def test_the_page_of_architectures_names_each_of_them_once() -> None:
    text = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text()
    _, _, *rows = re.findall(r"^\| [^|]+ \| (.+) \|$|^\|(-.*)\|$", text, re.MULTILINE)
    named = [name for row, _ in rows for name in row.split(", ")]
    assert sorted(named) == sorted(
        {entry["config"]["model_type"] for entry in ARCHITECTURES.values()}
    )
