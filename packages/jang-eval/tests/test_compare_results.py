"""Results side by side, as Markdown and JSON, and what is refused."""

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from jang_eval._evaluation import Metric, Outcome
from jang_eval._statistics import Interval

MADE = run_path(str(Path(__file__).with_name("made_results.py")))
COMPARED = run_path(str(Path(__file__).with_name("compared.py")))
directory = COMPARED["directory"]
a_result = COMPARED["a_result"]
write = COMPARED["write"]
compare = COMPARED["compare"]


def test_the_markdown_has_a_row_for_each_model_with_intervals_parts_and_paired_tests(
    directory: Path,
) -> None:
    write(a_result("JANG_4M", "yyyyyyyyny"), "a.json")
    write(a_result("2|S", "nnnnnnnnyy"), "b.json")

    result = compare("a.json", "b.json")

    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "## mmlu\n"
        "\n"
        "| model | bpw | MB | accuracy (%) ↑ | seconds (s) ↓ | accuracy/max (%) |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| JANG_4M | 4.50 | 75.7 | 90.0 (45.0 to 95.0) | 12,346 | 100.0 |\n"
        "| 2\\|S | 4.50 | 75.7 | 20.0 (10.0 to 60.0) | 12,346 | 100.0 |\n"
        "\n"
        "### accuracy by part (%) ↑\n"
        "\n"
        "| part | JANG_4M | 2\\|S |\n"
        "| --- | --- | --- |\n"
        "| zoology | 90.0 (45.0 to 95.0) | 20.0 (10.0 to 60.0) |\n"
        "\n"
        "### Paired tests\n"
        "\n"
        "| first | second | only first | only second | questions | p | p (Holm) |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        # 2 * (1 + 9) / 2**9
        "| JANG_4M | 2\\|S | 8 | 1 | 10 | 0.0391 | 0.0391 |\n"
        "\n"
        "Two models, the same questions: how many only one of them did better, how likely that is "
        "where both are equally good (McNemar's exact test), and the same after Holm for all rows "
        "of this table.\n"
        "\n"
        f"Task mmlu, version 1; data sha256 {'ab' * 32}; shots: 5.\n"
        "\n"
        "## Results\n"
        "\n"
        "- mmlu, JANG_4M: smollm2-JANG_4M, JANG_4M, 4.50 bpw, 75.7 MB, from smollm2; `a.json`\n"
        "- mmlu, 2\\|S: smollm2-2\\|S, 2\\|S, 4.50 bpw, 75.7 MB, from smollm2; `b.json`\n"
        "\n"
        "Values with 95 % intervals; what has none is no estimate. "
        "↑: higher is better, ↓: lower is.\n"
    )


def test_results_of_several_tasks_meet_in_one_row_for_each_model(directory: Path) -> None:
    write(a_result("JANG_4M", "yn"), "mmlu.json")
    metric = Metric("correct", 0.0, Interval(0.0, 0.793), "", "higher", 1)
    write(a_result("JANG_4M", "n", task="qa", metrics=(metric,)), "qa.json")

    result = compare("mmlu.json", "qa.json")

    assert result.stdout.splitlines()[:3] == [
        "| model | bpw | MB | mmlu: accuracy (%) ↑ | qa: correct (%) ↑ |",
        "| --- | --- | --- | --- | --- |",
        "| JANG_4M | 4.50 | 75.7 | 50.0 (25.0 to 75.0) | 0.0 (0.0 to 79.3) |",
    ]


def test_the_json_has_models_metrics_and_tests(directory: Path) -> None:
    for name in ("a", "b", "c"):
        write(a_result(name, "yyn" if name == "a" else "nny"), f"{name}.json")

    document = json.loads(compare("a.json", "b.json", "c.json", "--json").stdout)

    assert [model["label"] for model in document["models"]] == ["a", "b", "c"]
    (task,) = document["tasks"]
    assert task["settings"] == {"shots": "5"}
    assert [result["file"] for result in task["results"]] == ["a.json", "b.json", "c.json"]
    assert task["results"][0]["metrics"][0] == {
        "name": "accuracy",
        "value": 2 / 3,
        "interval": {"low": 1 / 3, "high": (1 + 2 / 3) / 2},
        "unit": "",
        "better": "higher",
        "count": 3,
    }
    pairs = [
        (each["first"], each["second"], each["only_first"], each["only_second"])
        for each in task["paired_tests"]
    ]
    assert pairs == [("a", "b", 2, 1), ("a", "c", 2, 1), ("b", "c", 0, 0)]


def test_the_same_model_twice_in_one_task_is_two_rows_named_by_their_files(
    directory: Path,
) -> None:
    write(a_result("JANG_4M", "yn"), "first.json")
    write(a_result("JANG_4M", "ny"), "second.json")

    document = json.loads(compare("first.json", "second.json", "--json").stdout)

    assert [model["label"] for model in document["models"]] == [
        f"JANG_4M, smollm2-JANG_4M, 4.50 bpw, {name}.json" for name in ("first", "second")
    ]


def a_perplexity(label: str, tokens: str, windows: str = "all", count: int = 2) -> Any:
    metrics = [
        Metric("perplexity", 20.0, None, "per token", "lower", 100 * count),
        Metric("loss", 3.0, None, "nats per token", "lower", 100 * count),
        Metric("word perplexity", 40.0, None, "per word", "lower", 100 * count),
        Metric("byte perplexity", 2.0, None, "per byte", "lower", 100 * count),
        Metric("bits per byte", 1.0, None, "bits", "lower", 100 * count),
    ]
    outcomes = [Outcome(f"t:{n}", "t", {"loss": 300.0, "tokens": 100.0}) for n in range(count)]
    settings = {"windows": windows, "tokens": tokens, "seed": "0"}
    return MADE["a_result"]("perplexity", label, 4.5, metrics, outcomes, settings)


def test_of_different_tokenizers_perplexity_is_compared_by_word_and_byte_alone(
    directory: Path,
) -> None:
    write(a_perplexity("a", "0123"), "a.json")
    write(a_perplexity("b", "0123"), "b.json")
    write(a_perplexity("c", "4567", count=3), "c.json")

    same = compare("a.json", "b.json").stdout
    result = compare("a.json", "b.json", "c.json", "--html", "page.html")

    assert "| perplexity (per token) ↓ | loss (nats per token) ↓ |" in same
    assert "### Paired tests of means" in same
    assert result.exit_code == 0, result.output
    head = "| model | bpw | MB | word perplexity ↓ | byte perplexity ↓ | bits per byte ↓ |"
    assert head in result.stdout
    assert "Paired tests" not in result.stdout
    assert "tokens: different, so nothing by token is shown" in result.stdout


def test_some_windows_of_different_tokenizers_are_not_compared(directory: Path) -> None:
    write(a_perplexity("a", "0123", "4"), "a.json")
    write(a_perplexity("b", "4567", "4"), "b.json")

    result = compare("a.json", "b.json")

    assert result.exit_code == 2
    assert "b.json: settings.tokens: found 4567, expected 0123" in result.stderr


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"task_version": 2}, "task_version: found 2, expected 1"),
        ({"data_sha256": "cd"}, f"data_sha256: found cd, expected {'ab' * 32}"),
        ({"settings": {"shots": "0"}}, "settings.shots: found 0, expected 5"),
        ({"settings": {}}, "settings.shots: found none, expected 5"),
        ({"outcomes": ()}, "outcomes: found 0, expected 2"),
        (
            {"outcomes": (Outcome("q0", "", {}), Outcome("q\n2", "", {}))},
            r"outcomes[1].id: found q\n2, expected q1",
        ),
    ],
)
def test_results_of_one_task_that_do_not_belong_together_are_refused(
    directory: Path, changes: dict[str, Any], line: str
) -> None:
    write(a_result("a", "yn"), "a.json")
    write(a_result("b", "ny", **changes), "b.json")

    result = compare("a.json", "b.json", "--html", "page.html")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"error: b.json: {line} as in a.json\n"
    assert not Path("page.html").exists()


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda d: d.pop("metrics"), "metrics: found nothing, expected a list"),
        (
            lambda d: d["metrics"][0].update(value="1"),
            "metrics[0].value: found '1', expected a finite number",
        ),
        (
            lambda d: d["metrics"][1].update(name="accuracy"),
            "metrics[1]: found 'accuracy', expected a name that no other has",
        ),
        (
            lambda d: d["outcomes"][1].update(id="q0"),
            "outcomes[1]: found 'q0', expected a name that no other has",
        ),
    ],
)
def test_a_file_with_a_bad_field_is_refused_by_file_and_field(
    directory: Path, edit: Any, line: str
) -> None:
    write(a_result("a", "yn"), "a.json")
    document = json.loads(Path("a.json").read_text())
    edit(document)
    Path("a.json").write_text(json.dumps(document))

    result = compare("a.json")

    assert result.exit_code == 2
    assert result.stderr == f"error: a.json: {line}\n"


def test_no_document_tells_where_on_this_machine_its_results_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here/results", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    files = [tmp_path / "here/results/a.json", tmp_path / "elsewhere/a.json"]
    for file in files:
        write(a_result("a", "yn"), str(file))
    # The same model twice, so that rows are named by their files.
    arguments = [*map(str, files), "--html", "page.html"]
    written = [compare(*arguments).stdout, compare(*arguments, "--json").stdout]
    written.append(Path("page.html").read_text(encoding="utf-8"))
    for text in written:
        assert str(tmp_path) not in text
        assert "results/a.json" in text
    files = json.loads(written[1])["tasks"][0]["results"]
    assert [each["file"] for each in files] == ["results/a.json", "a.json"]
