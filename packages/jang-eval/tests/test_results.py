import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jang_eval import (
    EvaluationResult,
    Interval,
    Metric,
    Outcome,
    ResultFileError,
    read_result,
    write_result,
)
from jang_eval._documents import document_text
from jang_eval._model_info import ModelInfo

FINITE = st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.lists(
    st.builds(
        Metric,
        value=FINITE,
        interval=st.none() | st.builds(Interval, low=FINITE, high=FINITE),
    ),
    max_size=4,
    unique_by=lambda metric: metric.name,
)
OUTCOMES = st.lists(
    st.builds(
        Outcome,
        numbers=st.dictionaries(st.text(max_size=9), FINITE, max_size=3),
        arrays=st.dictionaries(
            st.text(max_size=9), st.lists(FINITE, max_size=3).map(tuple), max_size=2
        ),
    ),
    max_size=4,
    unique_by=lambda outcome: outcome.id,
)
RESULTS = st.builds(
    EvaluationResult,
    model=st.builds(ModelInfo, bits_per_weight=st.floats(0, 64)),
    metrics=METRICS.map(tuple),
    outcomes=OUTCOMES.map(tuple),
    seconds=st.floats(0, 1e6),
)


@settings(
    # A busy machine is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(result=RESULTS)
def test_a_result_comes_back_from_its_file_as_it_was(
    tmp_path: Path, result: EvaluationResult
) -> None:
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


def a_result() -> EvaluationResult:
    model = ModelInfo("m", "llama", "JANG_4M", 4.5, 1000, 100, 10, (1,), True, "", "")
    metric = Metric("correct", 1.0, Interval(0.2, 1.0), "", "higher", 1)
    outcomes = tuple(
        Outcome(name, "", {"correct": 1.0}, {"answer": "Paris"}, {"logprobs": (-1.5,)})
        for name in ("capital", "river")
    )
    return EvaluationResult(
        "qa", 2, "ab", "0.1.0", "h:1", {"max_tokens": "64"}, model, (metric,), outcomes, 1.5
    )


Edit = Callable[[dict[str, Any]], Any]


def test_numbers_of_a_list_stand_on_one_line_and_texts_as_they_are() -> None:
    numbers = [1, -2.5, 1e-9, *range(20)]
    document = {"numbers": numbers, "text": "[\n  1\n]", "mixed": ["[\n 1\n]", 1], "none": []}
    text = document_text(document)
    assert json.loads(text) == document
    assert f'  "numbers": {json.dumps(numbers)},\n' in text
    # A position of `kl` has eight numbers of seven digits at most.
    arrays = [[float(f"{n / 7:.7g}") for n in range(1000)] for _ in range(8)]
    assert len(document_text({"arrays": arrays})) < 8 * 11 * 1000


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("model"), "model: found nothing, expected an object"),
        (lambda d: d.update(task_version="1"), "task_version: found '1', expected an integer"),
        (lambda d: d.update(task_version=True), "task_version: found True, expected an integer"),
        (lambda d: d.update(target="\ud800"), r"target: found '\ud800', expected Unicode text"),
        (lambda d: d.update(outcomes={}), "outcomes: found an object, expected a list"),
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
            lambda d: d["outcomes"][0]["numbers"].update(correct=10**400),
            "outcomes[0].numbers.correct: found 1000000000000000000000000000000000000..., "
            "expected a finite",
        ),
        (
            lambda d: d["metrics"][0].update(interval=[0, 1]),
            "metrics[0].interval: found a list, expected an object",
        ),
        (
            lambda d: d["metrics"].append(d["metrics"][0]),
            "metrics[1]: found 'correct', expected a name that no other has",
        ),
        (
            lambda d: d["outcomes"][1].update(id="capital"),
            "outcomes[1]: found 'capital', expected a name that no other has",
        ),
        (
            lambda d: d.update(answers=[], metrics=None) or d.pop("metrics"),
            "answers: found a list, expected metrics and outcomes: `jang-eval qa` wrote another "
            "form once; ask again",
        ),
    ],
)
def test_a_result_with_a_bad_field_is_refused_by_file_and_field(
    tmp_path: Path, edit: Edit, message: str
) -> None:
    file = tmp_path / "result.json"
    write_result(a_result(), file)
    document = json.loads(file.read_text())
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
    file.write_text(file.read_text().replace('"seconds": 1.5', '"seconds": 1e999'))
    with pytest.raises(ResultFileError, match=r"seconds: found inf, expected a fin"):
        read_result(file)
