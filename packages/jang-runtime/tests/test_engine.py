"""The engine on a real, tiny model: what requests get, and how they end."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import mlx.core as mx
import pytest

from jang_runtime import (
    ChatMessage,
    ChatPrompt,
    Delta,
    Engine,
    EngineStoppedError,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    InvalidRequestError,
    ModelError,
    Sampling,
    Started,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from jang_runtime.terminal import stream_events


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


def run(engine: Engine, **fields: object) -> tuple[str, list[int], Finished]:
    request = GenerationRequest(**({"prompt": TextPrompt("hello")} | fields))  # type: ignore[arg-type]
    events = list(stream_events(engine, request))
    assert isinstance(events[0], Started)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert isinstance(events[-1], Finished)
    assert len(events) == len(deltas) + 2
    return (
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.token_ids],
        events[-1],
    )


def test_a_request_starts_flows_and_finishes_with_its_counts(engine: Engine) -> None:
    _, ids, finished = run(engine, stopping=Stopping(max_tokens=12))
    assert len(ids) == finished.completion_tokens == 12
    assert finished.reason is FinishReason.MAX_TOKENS
    assert finished.prompt_tokens == len("hello")
    assert min(finished.timings.queue, finished.timings.prefill, finished.timings.decode) >= 0


def test_greedy_answers_are_the_same_every_time_and_sampled_ones_follow_the_seed(
    engine: Engine,
) -> None:
    short = Stopping(max_tokens=16)
    assert run(engine, stopping=short)[1] == run(engine, stopping=short)[1]
    seeded = Sampling(temperature=1.0, seed=11)
    first = run(engine, sampling=seeded, stopping=short)[1]
    assert run(engine, sampling=seeded, stopping=short)[1] == first
    other = Sampling(temperature=1.0, seed=12)
    assert run(engine, sampling=other, stopping=short)[1] != first


def test_text_tokens_and_chat_lead_to_the_same_prompt(engine: Engine) -> None:
    short = Stopping(max_tokens=8)
    text = "user: hi\nassistant: "
    ids = tuple(byte_tokens(text))
    by_text = run(engine, prompt=TextPrompt(text), stopping=short)
    by_ids = run(engine, prompt=TokenPrompt(ids), stopping=short)
    by_chat = run(engine, prompt=ChatPrompt((ChatMessage("user", "hi"),)), stopping=short)
    assert by_text[1] == by_ids[1] == by_chat[1]


def byte_tokens(text: str) -> list[int]:
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
        text
    )
    return [alphabet.index(char) + 2 for piece, _ in spelled for char in piece]


def test_a_stop_token_ends_the_answer_and_is_left_out(engine: Engine) -> None:
    _, ids, _ = run(engine, stopping=Stopping(max_tokens=16))
    stop = ids[5]
    cut = ids.index(stop)
    _, stopped_ids, finished = run(engine, stopping=Stopping(max_tokens=16, stop_token_ids=(stop,)))
    assert stopped_ids == ids[:cut]
    assert (finished.reason, finished.matched_stop) == (FinishReason.STOP_TOKEN, stop)


def test_a_stop_string_ends_the_answer_and_is_cut_off(engine: Engine) -> None:
    seeded = Sampling(temperature=1.5, seed=5)
    text, _, _ = run(engine, sampling=seeded, stopping=Stopping(max_tokens=40))
    stop = text[6:9]
    cut, _, finished = run(
        engine, sampling=seeded, stopping=Stopping(max_tokens=40, stop_strings=(stop,))
    )
    assert cut == text[: text.index(stop)]
    assert (finished.reason, finished.matched_stop) == (FinishReason.STOP_STRING, stop)


def test_an_answer_ends_where_the_context_does(engine: Engine) -> None:
    room = 5
    prompt = TokenPrompt(tuple([10] * (engine.info.context_length - room)))
    _, ids, finished = run(engine, prompt=prompt)
    assert (len(ids), finished.reason) == (room, FinishReason.CONTEXT_FULL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": Sampling(temperature=-1)}, "sampling.temperature: found -1, expected 0 to"),
        ({"sampling": Sampling(temperature=float("nan"))}, "sampling.temperature: found nan"),
        ({"sampling": Sampling(top_p=0)}, "sampling.top_p: found 0, expected above 0"),
        ({"sampling": Sampling(top_k=385)}, "sampling.top_k: found 385, expected 0 to 384"),
        ({"sampling": Sampling(min_p=1.5)}, "sampling.min_p: found 1.5"),
        ({"stopping": Stopping(max_tokens=0)}, "stopping.max_tokens: found 0, expected 1 to 512"),
        ({"stopping": Stopping(stop_strings=("",))}, "stopping.stop_strings: found an empty"),
        ({"stopping": Stopping(stop_strings=("a",) * 17)}, "found 17 strings, expected at most 16"),
        (
            {"stopping": Stopping(stop_strings=("a", "b" * 1025))},
            "stopping.stop_strings: found 1025 characters in one, expected at most 1024",
        ),
        ({"stopping": Stopping(stop_token_ids=(384,))}, "stopping.stop_token_ids: found 384"),
        (
            {"stopping": Stopping(time_limit_seconds=0)},
            "stopping.time_limit_seconds: found 0, expected above 0, up to 1e6",
        ),
        ({"stopping": Stopping(time_limit_seconds=float("nan"))}, "time_limit_seconds: found nan"),
        ({"stopping": Stopping(time_limit_seconds=2e6)}, "time_limit_seconds: found 2000000.0"),
        ({"prompt": TokenPrompt(())}, "prompt.token_ids: found no tokens"),
        ({"prompt": TokenPrompt((1, 999))}, "prompt.token_ids: found 999, expected ids from 0"),
        ({"prompt": ChatPrompt(())}, "prompt.chat.messages: found no messages"),
        ({"prompt": TextPrompt("")}, "prompt.text: found no tokens"),
        ({"prompt": TokenPrompt((5,) * 512)}, "prompt: found 512 tokens, expected fewer than"),
    ],
)
def test_a_wrong_request_is_refused_by_field_and_fails_alone(
    engine: Engine, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        run(engine, **fields)
    assert run(engine, stopping=Stopping(max_tokens=1))[2].completion_tokens == 1


def test_closing_ends_running_and_waiting_requests_and_refuses_new_ones(tiny_model: Path) -> None:
    engine = Engine(tiny_model)
    running: SimpleQueue[Event] = SimpleQueue()
    waiting: SimpleQueue[Event] = SimpleQueue()
    endless = GenerationRequest(TextPrompt("x"), stopping=Stopping(max_tokens=500, ignore_eos=True))
    engine.submit(endless, running.put)
    engine.submit(endless, waiting.put)
    assert isinstance(running.get(timeout=60), Started)
    engine.close()
    assert last_of(running) == FinishReason.CANCELLED
    assert last_of(waiting) in (FinishReason.CANCELLED, EngineStoppedError)
    with pytest.raises(EngineStoppedError):
        engine.submit(endless, running.put)
    engine.close()


def test_the_death_of_the_engines_thread_is_told_to_all_that_wait_and_to_the_log(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(tiny_model)
    begun, go_on = threading.Event(), threading.Event()
    waiting: SimpleQueue[Event] = SimpleQueue()

    def deadly(event: Event) -> None:
        begun.set()
        go_on.wait(60)
        raise KeyboardInterrupt("of the listener")

    engine.submit(GenerationRequest(TextPrompt("x")), deadly)
    begun.wait(60)
    engine.submit(GenerationRequest(TextPrompt("x")), waiting.put)
    go_on.set()
    assert last_of(waiting) == EngineStoppedError
    with pytest.raises(EngineStoppedError):
        engine.submit(GenerationRequest(TextPrompt("x")), waiting.put)
    engine.close()
    [record] = [one for one in caplog.records if one.message == "fault"]
    assert (record.name, record.levelname) == ("jang_runtime", "ERROR")
    assert record.exc_info
    assert str(record.exc_info[1]) == "of the listener"


def last_of(events: SimpleQueue[Event]) -> object:
    while True:
        event = events.get(timeout=60)
        if isinstance(event, Finished):
            return event.reason
        if isinstance(event, Failed):
            return type(event.error)


def test_an_engine_with_nothing_to_do_gives_memory_for_reuse_back(engine: Engine) -> None:
    run(engine, stopping=Stopping(max_tokens=16))
    assert mx.get_cache_memory() > 0
    deadline = time.monotonic() + 10
    while mx.get_cache_memory() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mx.get_cache_memory() == 0
    assert run(engine, stopping=Stopping(max_tokens=2))[2].completion_tokens == 2


def test_many_threads_may_submit_and_each_gets_its_own_answer(engine: Engine) -> None:
    expected = {n: run(engine, prompt=TokenPrompt((n,)), stopping=Stopping(max_tokens=4))[1]
                for n in range(20, 28)}  # fmt: skip
    answers: dict[int, list[int]] = {}

    def ask(n: int) -> None:
        answers[n] = run(engine, prompt=TokenPrompt((n,)), stopping=Stopping(max_tokens=4))[1]

    threads = [threading.Thread(target=ask, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == expected


def test_a_directory_that_is_no_model_is_refused_in_one_line(
    tmp_path: Path, tiny_source: Path
) -> None:
    with pytest.raises(ModelError, match="directory: found nothing, expected a directory"):
        Engine(tmp_path / "nothing")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(
        ModelError, match=r"weight files: found none, expected model\*\.safetensors"
    ):
        Engine(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(
        (tiny_source / "model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="mlx-lm cannot build it") as caught:
        Engine(tmp_path / "broken")
    assert "\n" not in str(caught.value)
