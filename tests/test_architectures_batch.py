"""Every architecture in a batch, after a known beginning, and in many continuations, as alone.

The models are those of jang-quant's architectures.json, with random weights.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from jang_runtime import ModelError, ModelInfo
from jang_runtime._batch import Batch, BatchError, Row
from jang_runtime._caches import (
    ALONE,
    Caches,
    ForwardPass,
    KVQuantization,
    check_kv_quantization,
    copied,
    evaluate,
    new_caches,
    repeated,
    why_alone,
)
from jang_runtime._model import LoadedModel, SpecialTokens
from jang_runtime._prefix_cache import PrefixCache
from jang_runtime.architecture import build_model

HELPERS = run_path(
    str(Path(__file__).parents[1] / "packages" / "jang-quant" / "tests" / "checkpoints.py")
)
ARCHITECTURES: dict[str, dict[str, Any]] = HELPERS["ARCHITECTURES"]
VOCABULARY = 320
STEPS = 16
# Lengths of prompts: shorter than the sliding windows, whose size is 8, and longer.
TEXTS = [
    [int(token) for token in np.random.default_rng(n).integers(2, VOCABULARY, length + STEPS)]
    for n, length in enumerate((10, 2, 21, 5))
]
# Of the largest logit: the same sums in another order.
TOLERANCE = 2e-5


@dataclass
class Forced:
    """Chooses the tokens of a given text, and keeps the logits that it was given."""

    text: list[int]
    prompt: int
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    is_plain = False
    looks_back = False

    def choose(self, logits: mx.array, text: mx.array | None, index: int) -> mx.array:
        self.logits.append(np.array(logits[0]))
        return mx.array([self.text[self.prompt + index]], mx.uint32)


def random_model(name: str) -> Any:
    mx.random.seed(3)
    model = build_model(ARCHITECTURES[name]["config"])
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def prefilled(forward: ForwardPass, tokens: list[int]) -> Caches:
    caches = new_caches(forward.model)
    forward(mx.array([tokens]), caches)
    evaluate(caches)
    return caches


def alone(forward: ForwardPass, text: list[int]) -> NDArray[np.float32]:
    """Logits of the text's last tokens, a step for each, `[STEPS, vocabulary]`."""
    caches = prefilled(forward, text[: -STEPS - 1])
    rows = [forward(mx.array([[token]]), caches)[0, -1] for token in text[-STEPS - 1 : -1]]
    return np.array(mx.stack(rows))


def row_for(text: list[int]) -> Row:
    prompt = len(text) - STEPS
    chooser: Any = Forced(text, prompt)
    return Row(chooser, None, text[:prompt], outputs=0, limit=STEPS, cached=0)


def joining(forward: ForwardPass) -> list[list[NDArray[np.float32]]]:
    """Logits of four texts that join a batch one after the other; the second leaves early."""
    batch = Batch(forward)
    rows = [row_for(text) for text in TEXTS]
    for row in rows:
        batch.join(row, prefilled(forward, row.tokens[:-1]))
        for _ in range(3):
            batch.step()
    batch.leave(rows[1])
    while batch.rows:
        batch.step()
    return [row.chooser.logits for row in rows]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_gives_the_same_logits_in_company_as_alone(name: str) -> None:
    forward = ForwardPass(random_model(name), VOCABULARY)
    if ARCHITECTURES[name]["config"]["model_type"] in ALONE:
        with pytest.raises(BatchError):
            joining(forward)
        return
    expected = [alone(forward, text) for text in TEXTS]
    found = joining(forward)
    assert [len(logits) for logits in found] == [STEPS, 10, STEPS, STEPS]
    for one, other in zip(found, expected, strict=True):
        off = np.abs(np.array(one) - other[: len(one)]).max() / np.abs(other).max()
        assert off < TOLERANCE


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_goes_on_from_a_known_beginning_as_if_it_were_new(name: str) -> None:
    forward = ForwardPass(random_model(name), VOCABULARY)
    text = TEXTS[2]
    expected = np.array(forward(mx.array([text]), new_caches(forward.model))[0])
    known = PrefixCache(2**30)
    known.put(text[:12], prefilled(forward, text[:12]))
    # An exact beginning, and one that goes on otherwise, where that can be forgotten.
    for beginning, wanted in ((text[:12], 12), ([*text[:9], 3], 9)):
        hit = known.take([*beginning, 4], most=wanted)
        if hit is None:
            assert wanted == 9
            continue
        caches, length = hit
        rest = text[length:20]
        pieces = [
            forward(mx.array([piece]), caches)[0] for piece in (rest[:1], rest[1:5], rest[5:])
        ]
        off = np.abs(np.array(mx.concatenate(pieces)) - expected[length:20]).max()
        assert off / np.abs(expected).max() < TOLERANCE


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_scores_many_continuations_of_one_context_as_each_alone(name: str) -> None:
    forward = ForwardPass(random_model(name), VOCABULARY)
    context = prefilled(forward, TEXTS[0][:10])
    ends = [text[-4:] for text in TEXTS]
    expected = [np.array(forward(mx.array([end]), copied(context))[0]) for end in ends]
    # The third ends early: what stands after it must not matter.
    ends[2] = [*ends[2][:2], 0, 0]
    caches = repeated(context, len(ends))
    pieces = [forward(mx.array([end[n : n + 2] for end in ends]), caches) for n in (0, 2)]
    found = np.array(mx.concatenate(pieces, axis=1))
    for one, other, count in zip(found, expected, (4, 4, 2, 4), strict=True):
        off = np.abs(one[:count] - other[:count]).max() / np.abs(other).max()
        assert off < TOLERANCE


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_runs_with_quantized_caches_or_refuses_them_in_one_line(name: str) -> None:
    architecture = ARCHITECTURES[name]["config"]["model_type"]
    info = ModelInfo(
        *("", architecture, "", 0, 0, 512, VOCABULARY, (), False, "", "", "cpu", "", "mlx", 0, 0.0),
        special_tokens=SpecialTokens(None, None, None, None),
        plan=(),
        plan_digest="",
    )
    tokenizer: Any = None
    loaded = LoadedModel(random_model(name), tokenizer, info)
    assert why_alone(loaded, KVQuantization(8)) is not None
    assert (why_alone(loaded, None) is None) == (architecture not in ALONE)
    try:
        check_kv_quantization(loaded, KVQuantization(8))
    except ModelError as error:
        assert f"kv_quantization: found 8 bits for {architecture}, expected none" in str(error)
        assert "\n" not in str(error)
        return
    exact = ForwardPass(loaded.model, VOCABULARY)
    rounded = replace(exact, kv_quantization=KVQuantization(8, start=0))
    expected, found = alone(exact, TEXTS[2]), alone(rounded, TEXTS[2])
    off = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < off < 0.05
