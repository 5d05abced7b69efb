import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jang_eval import QaResult, ResultFileError, read_result, write_result
from jang_eval._results import JudgedAnswer, ModelInfo, Settings, Totals

COUNTS = st.integers(0, 2**32 - 1)
SECONDS = st.floats(0, 1e6)
ANSWERS = st.lists(
    st.builds(JudgedAnswer, prompt_tokens=COUNTS, completion_tokens=COUNTS, seconds=SECONDS),
    max_size=4,
)
RESULTS = ANSWERS.flatmap(
    lambda answers: st.builds(
        QaResult,
        task=st.just("qa"),
        settings=st.builds(Settings, temperature=st.floats(0, 100)),
        model=st.builds(ModelInfo, bits_per_weight=st.floats(0, 64)),
        answers=st.just(tuple(answers)),
        totals=st.just(Totals.of(answers)),
    )
)


@settings(
    # A busy machine is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(result=RESULTS)
def test_a_result_comes_back_from_its_file_as_it_was(tmp_path: Path, result: QaResult) -> None:
    file = tmp_path / "result.json"
    write_result(result, file)
    assert read_result(file) == result


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "result.json"
    file.write_text("old")
    monkeypatch.setattr(Path, "replace", full)

    with pytest.raises(ResultFileError, match=r"result\.json: cannot be written: No space left"):
        write_result(a_result(), file)

    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def a_result() -> QaResult:
    model = ModelInfo("m", "llama", "JANG_4M", 4.5, 1000, 100, 10, (1,), True, "", "")
    return QaResult("qa", 1, "ab", "0.1.0", "h:1", Settings(64, 0.0), model, (), Totals.of(()))


Edit = Callable[[dict[str, Any]], Any]

ANSWER = {
    "id": "capital",
    "question": "What is the capital of France?",
    "answer": "Paris",
    "verdict": "correct",
    "failure_mode": None,
    "ideas_found": ["Paris"],
    "finish_reason": "eos",
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "seconds": 1.5,
}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("model"), "model: found nothing, expected an object"),
        (lambda d: d.update(task="mmlu"), "task: found 'mmlu', expected 'qa'"),
        (lambda d: d.update(task_version="1"), "task_version: found '1', expected an integer"),
        (lambda d: d.update(task_version=True), "task_version: found True, expected an integer"),
        (lambda d: d.update(target="\ud800"), r"target: found '\ud800', expected Unicode text"),
        (lambda d: d.update(answers={}), "answers: found an object, expected a list"),
        (
            lambda d: d["model"].update(eos_token_ids=[1, "</s>"]),
            r"model.eos_token_ids[1]: found '</s>', expected an integer",
        ),
        (
            lambda d: d["model"].update(has_chat_template=1),
            "model.has_chat_template: found 1, expected true or false",
        ),
        (
            lambda d: d["model"].update(bits_per_weight="4.5"),
            "model.bits_per_weight: found '4.5', expected a finite number",
        ),
        (
            lambda d: d["answers"][0].update(seconds=10**400),
            "answers[0].seconds: found 1000000000000000000000000000000000000..., expected a finite",
        ),
        (
            lambda d: d["answers"][0].update(verdict="good" * 20),
            "answers[0].verdict: found 'goodgoodgoodgoodgoodgoodgoodgoodgood..., "
            "expected one of correct, partial, broken",
        ),
        (
            lambda d: d["answers"][0].update(failure_mode="bored"),
            "answers[0].failure_mode: found 'bored', expected one of empty, prompt echo, ",
        ),
        (
            lambda d: d["totals"].update(correct=6),
            "totals.correct: found 6, expected 1, as the answers add up to",
        ),
    ],
)
def test_a_result_with_a_bad_field_is_refused_by_file_and_field(
    tmp_path: Path, edit: Edit, message: str
) -> None:
    file = tmp_path / "result.json"
    write_result(a_result(), file)
    document = json.loads(file.read_text())
    document["answers"] = [dict(ANSWER)]
    document["totals"] = {
        "questions": 1,
        "correct": 1,
        "partial": 0,
        "broken": 0,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "seconds": 1.5,
    }
    file.write_text(json.dumps(document))
    read_result(file)

    edit(document)
    file.write_text(json.dumps(document))

    with pytest.raises(ResultFileError) as caught:
        read_result(file)
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no JSON"),
        (b"{'task': 'qa'}", "found no JSON"),
        (b"\xff\xfe", "found no JSON"),
        (b'{"task": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "found no JSON"),
        (b"[]", "document: found a list, expected an object"),
        (b'{"task": "qa", "task_version": 1e999}', "task_version: found inf, expected an integer"),
    ],
)
def test_a_file_that_holds_no_result_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "result.json"
    file.write_bytes(content)
    with pytest.raises(ResultFileError) as caught:
        read_result(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_field_that_a_newer_version_added_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result(a_result(), file)
    document = json.loads(file.read_text())
    document["mood"] = "good"
    file.write_text(json.dumps(document))
    assert read_result(file) == a_result()


def test_a_number_that_json_allows_and_floats_do_not_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result(a_result(), file)
    file.write_text(file.read_text().replace('"temperature": 0.0', '"temperature": 1e999'))
    with pytest.raises(ResultFileError, match=r"settings\.temperature: found inf, expected a fin"):
        read_result(file)
