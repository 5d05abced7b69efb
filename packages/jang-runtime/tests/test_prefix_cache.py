"""What is kept of earlier requests: the same answers sooner, within the bytes allowed."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache

from conftest import convert_to, write_tiny_source
from jang_runtime import (
    Delta,
    Engine,
    EngineOptions,
    Finished,
    GenerationRequest,
    InvalidRequestError,
    KVQuantization,
    Logprobs,
    ModelError,
    PromptLogprobs,
    Sampling,
    Stopping,
    TokenPrompt,
)
from jang_runtime._caches import Caches, evaluate
from jang_runtime._prefix_cache import PrefixCache
from jang_runtime.terminal import stream_events

TEXT = tuple(range(20, 120))


def ask(
    engine: Engine, prompt: tuple[int, ...], **fields: Any
) -> tuple[list[int], Finished, list[Any]]:
    request = GenerationRequest(
        TokenPrompt(prompt),
        fields.pop("sampling", Sampling(temperature=1.0, seed=8)),
        Stopping(max_tokens=12),
        **fields,
    )
    events = list(stream_events(engine, request))
    ids = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
    assert isinstance(events[-1], Finished)
    return ids, events[-1], events


def test_answers_are_the_same_with_and_without_what_is_kept(tiny_model: Path) -> None:
    with Engine(tiny_model, options=EngineOptions(prefix_cache_bytes=0)) as engine:
        first, _, _ = ask(engine, TEXT)
        turns = [
            (TEXT, 99),
            # A conversation that goes on: all but the answer's last token, which was never fed.
            ((*TEXT, *first, 7, 8, 9), 111),
            (TEXT[:60], 59),
            ((*TEXT[:40], 5, 6), 40),
            ((5, 6, 7), 0),
        ]
        expected = [ask(engine, prompt)[0] for prompt, _ in turns]
        assert engine.statistics().cached_prompt_tokens == 0
        assert engine.statistics().prefix_cache_bytes == 0
    with Engine(tiny_model) as engine:
        assert ask(engine, TEXT)[0] == first
        for (prompt, known), ids in zip(turns, expected, strict=True):
            found, finished, _ = ask(engine, prompt)
            assert found == ids
            assert finished.cached_prompt_tokens == known
        statistics = engine.statistics()
        assert (statistics.prefix_cache_lookups, statistics.prefix_cache_hits) == (6, 4)
        assert statistics.cached_prompt_tokens == 99 + 111 + 59 + 40
        engine.clear_prefix_cache()
        assert engine.statistics().prefix_cache_bytes == 0
        assert ask(engine, TEXT)[1].cached_prompt_tokens == 0


def test_log_probabilities_of_a_known_prompt_are_all_there(tiny_model: Path) -> None:
    with Engine(tiny_model) as engine:
        ask(engine, TEXT)
        _, finished, events = ask(engine, TEXT, logprobs=Logprobs(prompt=0))
    (prompt,) = [event for event in events if isinstance(event, PromptLogprobs)]
    assert len(prompt.tokens) == len(TEXT) - 1
    assert finished.cached_prompt_tokens == 0


def caches_of(count: int, *, can_trim: bool = True) -> Caches:
    layer = KVCache()
    layer.update_and_fetch(mx.ones((1, 1, count, 8)), mx.ones((1, 1, count, 8)))
    layers: Caches = [layer]
    if not can_trim:
        state = ArraysCache(1)
        state[0] = mx.ones((1, 4))
        layers.append(state)
    evaluate(layers)
    return layers


# One of the caches above, with two tokens.
SIZE = 2 * 2 * 8 * 4


def test_the_least_recently_used_go_first() -> None:
    kept = PrefixCache(3 * SIZE)
    for start in (100, 200, 300):
        kept.put([start, start + 1], caches_of(2))
    assert kept.take([100, 101, 5], most=2) is not None
    kept.put([400, 401], caches_of(2))
    assert kept.size == 3 * SIZE
    assert kept.take([200, 201, 5], most=2) is None
    assert all(kept.take([start, start + 1, 5], most=2) for start in (100, 300, 400))
    kept.put(list(range(1000)), caches_of(1000))
    assert kept.size == 3 * SIZE


def test_a_text_is_not_kept_beside_one_that_begins_with_it() -> None:
    kept = PrefixCache(100 * SIZE)
    kept.put([1, 2, 3], caches_of(3))
    kept.put([1, 2, 3, 4, 5], caches_of(5))
    kept.put([1, 2], caches_of(2))
    assert kept.size == SIZE * 5 // 2
    hit = kept.take([1, 2, 3, 9], most=3)
    assert hit is not None
    caches, length = hit
    assert (length, caches[0].offset) == (3, 3)
    # The kept one is as it was.
    again = kept.take([1, 2, 3, 4, 5, 6], most=5)
    assert again is not None
    assert again[0][0].offset == 5


def test_recurrent_layers_are_used_as_a_whole_or_not_at_all() -> None:
    kept = PrefixCache(100 * SIZE)
    kept.put([1, 2, 3], caches_of(3, can_trim=False))
    kept.put([1, 2, 3, 4, 5], caches_of(5, can_trim=False))
    for tokens, most, known in (
        ([1, 2, 3, 4, 5, 6], 5, 5),
        ([1, 2, 3, 4, 5, 6], 4, 3),
        ([1, 2, 3, 4, 9], 4, 3),
        ([1, 2, 9], 2, None),
        ([1, 2, 3], 2, None),
    ):
        hit = kept.take(tokens, most)
        assert (hit[1] if hit else None) == known


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads as wide as a group of a quantized cache."""
    folder = tmp_path_factory.mktemp("wide")
    source = write_tiny_source(folder / "source", hidden_size=256, max_position_embeddings=512)
    return convert_to(source, folder / "out", "JANG_4M")


def test_quantized_caches_take_less_and_say_nearly_the_same(wide_model: Path) -> None:
    greedy = {"sampling": Sampling(), "logprobs": Logprobs(output=0)}
    with Engine(wide_model) as engine:
        _, _, events = ask(engine, TEXT, **greedy)
        exact = [entry.logprob for event in events if isinstance(event, Delta)
                 for entry in event.logprobs]  # fmt: skip
        size = engine.statistics().prefix_cache_bytes
    sizes: dict[int, int] = {}
    for bits in (8, 4):
        options = EngineOptions(kv_quantization=KVQuantization(bits, start=0))
        with Engine(wide_model, options=options) as engine:
            ids, _, events = ask(engine, TEXT, **greedy)
            again, finished, _ = ask(engine, TEXT, **greedy)
            sizes[bits] = engine.statistics().prefix_cache_bytes
        found = [entry.logprob for event in events if isinstance(event, Delta)
                 for entry in event.logprobs]  # fmt: skip
        assert found != exact
        assert found[0] == pytest.approx(exact[0], abs={8: 0.1, 4: 1.0}[bits])
        # What is kept of a prompt is quantized too.
        assert finished.cached_prompt_tokens == len(TEXT) - 1
        assert again == ids
    # With float32 scale and bias for each group of 64.
    assert sizes[8] < 0.4 * size
    assert sizes[4] < 0.6 * sizes[8]


def test_short_texts_stay_exact_until_quantization_starts(wide_model: Path) -> None:
    with Engine(wide_model) as engine:
        exact, _, _ = ask(engine, TEXT)
    options = EngineOptions(kv_quantization=KVQuantization(4, start=len(TEXT) + 12))
    with Engine(wide_model, options=options) as engine:
        assert ask(engine, TEXT)[0] == exact


def test_quantized_caches_that_an_architecture_cannot_have_are_refused(tiny_model: Path) -> None:
    # Heads of 32 are no multiple of the group.
    with pytest.raises(ModelError, match=r"kv_quantization: found 4 bits for llama, expected none"):
        Engine(tiny_model, options=EngineOptions(kv_quantization=KVQuantization(4)))
    for wrong, message in (
        (KVQuantization(3), "kv_quantization.bits: found 3, expected 4 or 8"),
        (KVQuantization(4, start=-1), "kv_quantization.start: found -1, expected 0 or more"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            Engine(tiny_model, options=EngineOptions(kv_quantization=wrong))
