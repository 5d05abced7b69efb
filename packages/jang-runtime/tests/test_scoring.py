"""Log-probabilities, scores and logits against the model's own logits, worked out in float64."""

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

from jang_runtime import (
    ChatMessage,
    ChatPrompt,
    Delta,
    Engine,
    EngineOptions,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    InvalidRequestError,
    Logits,
    LogitsRequest,
    Logprobs,
    PromptLogprobs,
    Sampling,
    Score,
    ScoreRequest,
    Stopping,
    TextPrompt,
    Ticket,
    TokenLogprobs,
    TokenPrompt,
)
from jang_runtime._caches import ForwardPass
from jang_runtime._logprobs import log_of_sum, measure, read
from jang_runtime._model import load
from jang_runtime._penalties import add_bias, penalize
from jang_runtime._sampling import make_chooser
from jang_runtime.terminal import stream_events

TEXT = tuple(int(token) for token in np.random.default_rng(5).integers(2, 384, 120))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load(tiny_model).model


def plain_logprobs(model: Any, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Of every token after each position, `[n, vocabulary]`, from one pass over the text."""
    logits = np.array(model(mx.array([tokens]))[0]).astype(np.float64)
    largest = logits.max(axis=1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))


def of_kind(events: list[Event], kind: Any) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def check(measured: TokenLogprobs, row: npt.NDArray[np.float64], top: int) -> None:
    assert measured.logprob == pytest.approx(row[measured.token_id], abs=2e-5)
    own = row[measured.token_id]
    fewest, most = (1 + int((row > own + slack).sum()) for slack in (2e-5, -2e-5))
    assert fewest <= measured.rank <= most
    assert [token for token, _ in measured.top] == list(np.argsort(-row)[:top])
    assert [value for _, value in measured.top] == pytest.approx(np.sort(row)[::-1][:top], abs=2e-5)


def test_a_rank_counts_the_likelier_tokens_and_equal_ones_share_it() -> None:
    # Few values, so that many are equal.
    logits = np.random.default_rng(3).integers(-9, 9, (50, 384)).astype(np.float32)
    tokens = np.random.default_rng(4).integers(0, 384, 50)
    tokens[:2] = logits[0].argmax(), logits[1].argmin()
    measured = measure(mx.array(logits).astype(mx.bfloat16), mx.array(tokens), 0)
    ranks = [entry.rank for entry in read(measured, tokens.tolist())]
    own = logits[np.arange(50), tokens]
    assert ranks == [1 + int((row > value).sum()) for row, value in zip(logits, own, strict=True)]
    assert ranks[0] == 1
    assert ranks[1] == 1 + int((logits[1] > logits[1].min()).sum())


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_logprobs_are_those_of_the_model_before_bias_penalties_and_temperature(
    engine: Engine, model: Any, temperature: float
) -> None:
    sampling = Sampling(temperature, seed=3, logit_bias={40: 5.0}, repetition_penalty=1.3, top_k=30)
    request = GenerationRequest(
        TokenPrompt(TEXT), sampling, Stopping(max_tokens=12), Logprobs(output=4, prompt=2)
    )
    events = list(stream_events(engine, request))
    (prompt,) = of_kind(events, PromptLogprobs)
    deltas = of_kind(events, Delta)
    ids = tuple(token for delta in deltas for token in delta.token_ids)
    output = [entry for delta in deltas for entry in delta.logprobs]
    assert tuple(entry.token_id for entry in prompt.tokens) == TEXT[1:]
    assert tuple(entry.token_id for entry in output) == ids
    assert len(ids) == 12
    rows = plain_logprobs(model, TEXT + ids)
    for position, entry in enumerate(prompt.tokens):
        check(entry, rows[position], top=2)
    for position, entry in enumerate(output, len(TEXT) - 1):
        check(entry, rows[position], top=4)
    # It was the chosen token's, not the likeliest one's.
    assert any(entry.logprob < entry.top[0][1] and entry.rank > 1 for entry in output)
    plain = GenerationRequest(TokenPrompt(TEXT), sampling, Stopping(max_tokens=12))
    again = of_kind(list(stream_events(engine, plain)), Delta)
    assert tuple(token for delta in again for token in delta.token_ids) == ids
    assert not any(delta.logprobs for delta in again)


def reference_penalties(
    logits: npt.NDArray[np.float64], text: list[int], outputs: int, sampling: Sampling
) -> npt.NDArray[np.float64]:
    """The penalties in words: one token after the other."""
    changed = logits.copy()
    window = text[-sampling.penalty_window :] if sampling.penalty_window else text
    written = text[len(text) - outputs :]
    written = written[-sampling.penalty_window :] if sampling.penalty_window else written
    for token in set(window):
        positive = changed[token] > 0
        factor = sampling.repetition_penalty
        changed[token] = changed[token] / factor if positive else changed[token] * factor
    for token in set(written):
        changed[token] -= sampling.presence_penalty
        changed[token] -= sampling.frequency_penalty * written.count(token)
    return changed


@pytest.mark.parametrize("window", [0, 1, 4, 9, 50])
@pytest.mark.parametrize("outputs", [0, 1, 6])
def test_penalties_and_bias_are_those_of_the_reference(window: int, outputs: int) -> None:
    chance = np.random.default_rng(window)
    logits = chance.normal(size=16) * 3
    text = [3, 7, 7, 1, 0, 7, 15, 3, 3, 9]
    sampling = Sampling(
        repetition_penalty=1.7, presence_penalty=0.4, frequency_penalty=-0.3, penalty_window=window
    )
    rows = mx.array(logits.astype(np.float32))[None]
    found = penalize(rows, mx.array(text, mx.uint32), outputs, sampling)
    expected = reference_penalties(logits, text, outputs, sampling)
    assert np.array(found)[0] == pytest.approx(expected, abs=1e-5)
    biased = np.array(add_bias(rows, {3: 2.5, 15: -1e4}))[0] - logits
    assert biased[[3, 15]] == pytest.approx([2.5, -1e4], rel=1e-4)
    assert np.abs(np.delete(biased, [3, 15])).max() < 1e-6


def test_each_token_is_drawn_with_its_own_number_of_the_seed(engine: Engine, model: Any) -> None:
    sampling = Sampling(temperature=1.0, seed=9)
    request = GenerationRequest(TokenPrompt(TEXT), sampling, Stopping(max_tokens=8))
    deltas = of_kind(list(stream_events(engine, request)), Delta)
    text, chooser = list(TEXT), make_chooser(sampling)
    for index, token in enumerate(token for delta in deltas for token in delta.token_ids):
        logits = model(mx.array([text]))[:, -1]
        assert token == chooser.choose(logits, None, index).item()
        text.append(token)


def test_penalties_and_bias_act_on_the_text_that_comes(engine: Engine, model: Any) -> None:
    sampling = Sampling(
        repetition_penalty=1.4, presence_penalty=2.0, frequency_penalty=1.0, penalty_window=30,
        logit_bias={9: 1.0},
    )  # fmt: skip
    request = GenerationRequest(TokenPrompt(TEXT), sampling, Stopping(max_tokens=10))
    deltas = of_kind(list(stream_events(engine, request)), Delta)
    ids = [token for delta in deltas for token in delta.token_ids]
    text = list(TEXT)
    for outputs, token in enumerate(ids):
        logits = np.array(model(mx.array([text]))[0, -1]).astype(np.float64)
        logits[9] += 1.0
        assert token == reference_penalties(logits, text, outputs, sampling).argmax()
        text.append(token)


def test_continuations_are_scored_as_one_pass_over_the_whole_text_would(
    engine: Engine, model: Any
) -> None:
    context = TEXT[:50]
    greedy = int(plain_logprobs(model, context)[-1].argmax())
    after = int(plain_logprobs(model, (*context, greedy))[-1].argmax())
    continuations = ((5,), TEXT[50:], (greedy, after), (7, 8, 9), (greedy,), TEXT[60:63])
    events = list(stream_events(engine, ScoreRequest(TokenPrompt(context), continuations)))
    scores = of_kind(events, Score)
    assert [score.index for score in scores] == list(range(6))
    assert tuple(score.token_ids for score in scores) == continuations
    for score in scores:
        rows = plain_logprobs(model, context + score.token_ids)[len(context) - 1 : -1]
        expected = rows[np.arange(len(rows)), list(score.token_ids)]
        assert score.logprobs == pytest.approx(expected, abs=2e-5)
        assert score.total == pytest.approx(expected.sum(), abs=1e-3)
        assert score.is_greedy == (tuple(rows.argmax(axis=1)) == score.token_ids)
    assert [score.is_greedy for score in scores].count(True) == 2
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.COMPLETE
    assert (end.prompt_tokens, end.completion_tokens) == (50, sum(map(len, continuations)))


def test_the_context_of_many_continuations_is_worked_through_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.clear_prefix_cache()
    run, fed = ForwardPass.__call__, 0

    def counted(self: ForwardPass, tokens: mx.array, caches: list[Any]) -> mx.array:
        nonlocal fed
        fed += tokens.size
        return run(self, tokens, caches)

    monkeypatch.setattr(ForwardPass, "__call__", counted)
    many = tuple((first, second, 9) for first in range(10, 15) for second in range(20, 28))
    events = list(stream_events(engine, ScoreRequest(TokenPrompt(TEXT), many)))
    assert len(of_kind(events, Score)) == 40
    # The last token of each is not fed.
    assert fed == len(TEXT) + 40 * 2
    events = list(stream_events(engine, ScoreRequest(TokenPrompt(TEXT), ((4,),))))
    assert events[-1].cached_prompt_tokens == len(TEXT) - 1  # type: ignore[union-attr]


def test_a_text_after_a_text_is_scored_as_their_tokens_together(engine: Engine) -> None:
    # Tokens are bytes, so " b" belongs to the continuation although the context has the space.
    def ids(context: Any, *continuations: Any) -> list[tuple[int, ...]]:
        events = list(stream_events(engine, ScoreRequest(context, continuations)))
        return [score.token_ids for score in of_kind(events, Score)]

    spaced, bare = ids(TextPrompt("a"), " b", "b")
    assert ids(TextPrompt("a "), "b") == [spaced]
    assert (len(spaced), spaced[1:]) == (2, bare)
    assert ids(ChatPrompt((ChatMessage("user", "a "),)), "b") == [bare]
    assert ids(TextPrompt(" "), "b") == [bare]


@pytest.mark.parametrize("positions", [None, (0,), (119,), (3, 4, 50, 51, 52, 100)])
def test_logits_of_positions_are_those_of_one_pass_over_the_text(
    engine: Engine, model: Any, positions: tuple[int, ...] | None
) -> None:
    expected = np.array(model(mx.array([TEXT]))[0])
    events = list(stream_events(engine, LogitsRequest(TokenPrompt(TEXT), positions)))
    chunks = of_kind(events, Logits)
    assert all(chunk.values.dtype == np.float32 for chunk in chunks)
    asked = positions or tuple(range(len(TEXT)))
    assert tuple(position for chunk in chunks for position in chunk.positions) == asked
    found = np.concatenate([chunk.values for chunk in chunks])
    np.testing.assert_allclose(found, expected[list(asked)], atol=1e-4)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (LogitsRequest(TokenPrompt(TEXT * 4)), Logits),
        (ScoreRequest(TokenPrompt(TEXT[:2]), ((*TEXT, *TEXT),) * 40), Score),
    ],
)
def test_scores_and_logits_can_be_cancelled_between_pieces(
    engine: Engine, request_: Any, kind: Any
) -> None:
    events: SimpleQueue[Event] = SimpleQueue()

    def cancel_after_the_first(event: Event) -> None:
        events.put(event)
        if isinstance(event, kind):
            tickets.get(timeout=60).cancel()

    tickets: SimpleQueue[Ticket] = SimpleQueue()
    ticket = engine.submit(request_, cancel_after_the_first)
    for _ in range(100):
        tickets.put(ticket)
    got = [events.get(timeout=60)]
    while not isinstance(got[-1], Finished):
        got.append(events.get(timeout=60))
    assert got[-1].reason is FinishReason.CANCELLED
    # What one piece of work brings may have come.
    assert 1 <= len(of_kind(got, kind)) <= 16


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ScoreRequest(TokenPrompt((5,)), ()), "continuations: found 0, expected 1 to 1024"),
        (
            ScoreRequest(TokenPrompt((5,)), ("",)),
            r"continuations\[0\]: found nothing",
        ),
        (
            ScoreRequest(TokenPrompt((5,)), ((400,),)),
            r"continuations\[0\]\.token_ids: found 400",
        ),
        (ScoreRequest(TokenPrompt(()), ((4,),)), "context.token_ids: found no tokens"),
        (
            ScoreRequest(TokenPrompt((5,) * 500), ((4,) * 14,)),
            r"s\[0\]: found one that ends after 514",
        ),
        (LogitsRequest(TokenPrompt((5,)), ()), "positions: found none, expected at least one"),
        (
            LogitsRequest(TokenPrompt((5, 6)), (1, 0)),
            "positions: found 0 after 1, expected asc",
        ),
        (LogitsRequest(TokenPrompt((5, 6)), (2,)), "positions: found 2, expected below the promp"),
        (LogitsRequest(TokenPrompt((5,) * 513)), "prompt: found 513 tokens, expected at most the"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_field(
    engine: Engine, request_: Any, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        list(stream_events(engine, request_))


def test_the_last_token_of_a_full_context_can_be_scored(tiny_model: Path) -> None:
    with Engine(tiny_model, options=EngineOptions(prefix_cache_bytes=0)) as engine:
        request = ScoreRequest(TokenPrompt((5,) * 500), ((4,) * 13,))
        (score,) = of_kind(list(stream_events(engine, request)), Score)
    assert len(score.logprobs) == 13


@pytest.mark.parametrize("size", [5, 511, 512, 49152 + 7])
def test_a_large_vocabulary_costs_no_digits(size: int) -> None:
    rows = np.random.default_rng(size).normal(0, 3, (3, size)).astype(np.float32)
    expected = np.log(np.exp(rows.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.array(log_of_sum(mx.array(rows))), expected, rtol=0, atol=4e-6)
    np.testing.assert_allclose(
        np.array(log_of_sum(mx.array(rows[0]))), expected[0], rtol=0, atol=4e-6
    )
