import dataclasses
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_eval._compare.axes import linear_axis, logarithmic_axis
from jang_eval._compare.charts import wrapped
from jang_eval._compare.figures import pareto_front
from jang_eval._compare.paired import holm
from jang_eval._documents import write_document
from jang_eval._evaluation import EvaluationResult, Metric, Outcome
from jang_eval._model_info import PlanRow
from jang_eval._records import to_json
from jang_eval._statistics import Interval
from jang_eval.cli import app

MADE = run_path(str(Path(__file__).with_name("made_results.py")))

# Closes whatever it may stand in, and opens what runs or loads.
HOSTILE = (
    "</title></pre></style></script>--><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\" onload='x' \u202eexe.txt\x00\x1b[2J $sections ${script_digest} &amp; " + "long" * 80
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_result(label: str, rights: str, **changes: Any) -> EvaluationResult:
    """A result with a question for each letter: "y" where it was answered rightly."""
    outcomes = tuple(
        Outcome(f"q{index}", "zoology", {"correct": float(letter == "y")}, {"written": letter})
        for index, letter in enumerate(rights)
    )
    share = rights.count("y") / len(rights)
    interval = Interval(share / 2, (1 + share) / 2)
    metrics = (
        Metric("accuracy", share, interval, "", "higher", len(rights)),
        Metric("seconds", 12345.6, None, "s", "lower", 1),
        Metric("accuracy/zoology", share, interval, "", "higher", len(rights) - 1),
        Metric("accuracy/max", 1.0, None, "", "", len(rights)),
    )
    made: EvaluationResult = MADE["a_result"](
        "mmlu", label, 4.5, list(metrics), list(outcomes), {"shots": "5"}
    )
    return dataclasses.replace(made, **changes)


def write(result: EvaluationResult, name: str) -> None:
    write_document(to_json(result), Path(name))


def compare(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])


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


def test_of_several_answers_to_a_problem_the_test_counts_how_often_they_passed(
    directory: Path,
) -> None:
    for name, passed in {"a": "yynyn", "b": "ynnny"}.items():
        outcomes = tuple(
            Outcome(f"{problem}/{index}", problem, {"passed": float(letter == "y")})
            for index, (problem, letter) in enumerate(zip("ppqqr", passed, strict=True))
        )
        write(a_result(name, "y", outcomes=outcomes), f"{name}.json")

    (task,) = json.loads(compare("a.json", "b.json", "--json").stdout)["tasks"]

    (pair,) = task["paired_tests"]
    assert (pair["only_first"], pair["only_second"], pair["questions"]) == (2, 1, 3)


def test_flips_count_what_changed_beside_the_reference_that_results_name(directory: Path) -> None:
    choices = {"16 bits": "00123", "JANG_2S": "01103", "JANG_4M": "00123"}
    for label, chosen in choices.items():
        outcomes = tuple(
            # The right choice is always 0; 3 is none.
            Outcome(
                f"q{index}",
                "zoology",
                {"correct": float(choice == "0")}
                | ({} if choice == "3" else {"chosen": float(choice)}),
            )
            for index, choice in enumerate(chosen)
        )
        write(a_result(label, "y", outcomes=outcomes), f"{label}.json")
    kl = MADE["a_kl"]("JANG_2S", 4.5)
    digest = MADE["a_model"]("16 bits", 4.5).digest
    settings = kl.settings | {"reference digest": digest}
    write(dataclasses.replace(kl, settings=settings), "kl.json")

    files = [f"{label}.json" for label in ("JANG_2S", "16 bits", "JANG_4M")]
    document = json.loads(compare(*files, "kl.json", "--json").stdout)
    by_option = json.loads(compare(*files, "--reference", files[1], "--json").stdout)

    assert [model["label"] for model in document["models"] if model["is_reference"]] == [
        "16 bits (reference)"
    ]
    flips = document["tasks"][0]["answer_flips"]
    assert flips == by_option["tasks"][0]["answer_flips"]
    assert [(each["reference"], each["model"]) for each in flips] == [
        ("16 bits (reference)", "JANG_2S"),
        ("16 bits (reference)", "JANG_4M"),
    ]
    counts = [
        [flips[n][name]["count"] for name in ("changed", "right_to_wrong", "wrong_to_right")]
        for n in (0, 1)
    ]
    assert counts == [[2, 1, 1], [0, 0, 0]]
    assert flips[0]["changed"]["value"] == 0.4
    assert flips[0]["changed"]["interval"]["low"] == pytest.approx(0.1176, abs=1e-4)
    row = "| 16 bits (reference) | JANG_2S | 5 | 40.0 (11.8 to 76.9) | 20.0 (3.6 to 62.4) | "
    assert row in compare(*files, "kl.json").stdout
    assert json.loads(compare(*files, "--json").stdout)["tasks"][0]["answer_flips"] == []

    foreign = compare(files[0], "--reference", files[1])
    assert (foreign.exit_code, foreign.stderr) == (
        2,
        "error: reference: found 16 bits.json, expected one of the results\n",
    )


def test_means_over_the_same_texts_are_tested_by_the_blocks_that_results_have(
    directory: Path,
) -> None:
    losses = {"a": (3.0, 5.0, 2.0), "b": (1.0, 4.0, 4.0), "c": (3.0, 5.0, 2.0)}
    for blocks in ("windows", "documents"):
        for label, values in losses.items():
            outcomes = [
                Outcome(f"t:{n}", f"document {n // 2}", {"loss": loss, "tokens": 2.0})
                for n, loss in enumerate(values)
            ]
            metric = Metric("perplexity", 1.0, None, "per token", "lower", 6)
            settings = {"blocks": blocks, "seed": "7"}
            result = MADE["a_result"]("perplexity", label, 4.5, [metric], outcomes, settings)
            write(result, f"{blocks}-{label}.json")

    def tests(blocks: str) -> list[dict[str, Any]]:
        files = [f"{blocks}-{label}.json" for label in losses]
        (task,) = json.loads(compare(*files, "--json").stdout)["tasks"]
        return task["mean_tests"]

    ab, ac, bc = tests("windows")
    assert [(each["first"], each["second"]) for each in (ab, ac, bc)] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    # Differences 2, 1, -2: of 8 signs those with a sum of at least 1 are all.
    assert (ab["difference"], ab["blocks"], ab["p"]) == (pytest.approx(1 / 6), 3, 1.0)
    assert (ac["difference"], ac["p"]) == (0.0, 1.0)
    assert bc["difference"] == pytest.approx(-1 / 6)
    assert ab["interval"]["low"] == pytest.approx(-1.0)
    assert ab["interval"]["high"] == pytest.approx(1.0)

    # 3 of 4 tokens in the one document, -2 of 2 in the other.
    ab, *_ = tests("documents")
    assert (ab["difference"], ab["blocks"], ab["p"]) == (pytest.approx(1 / 6), 2, 1.0)
    assert ab["interval"] == {"low": pytest.approx(-1.0), "high": pytest.approx(0.75)}
    files = [f"windows-{label}.json" for label in losses]
    assert "### Paired tests of means\n" in compare(*files).stdout


@pytest.mark.parametrize("task", ["kl", "perplexity", "logit-mse", "qa", "mmlu"])
def test_results_without_a_single_outcome_have_no_tests_and_no_traceback(
    directory: Path, task: str
) -> None:
    for label in ("a", "b"):
        write(a_result(label, "y", task=task, outcomes=()), f"{label}.json")
    result = compare("a.json", "b.json", "--html", "page.html")
    assert result.exit_code == 0, result.output
    assert "Paired tests" not in result.stdout


def test_means_that_differ_in_each_of_many_windows_do_so_by_no_chance(directory: Path) -> None:
    files = [str(file) for file in MADE["write_all"](directory, 3)]
    document = json.loads(compare(*files, "--json").stdout)
    (kl,) = (task for task in document["tasks"] if task["task"] == "kl")
    values = {
        result["model"]: next(m["value"] for m in result["metrics"] if m["name"] == "KL")
        for result in kl["results"]
    }
    for test in kl["mean_tests"]:
        difference = values[test["first"]] - values[test["second"]]
        assert test["difference"] == pytest.approx(difference)
        # Both signs of all 8 windows, out of 256; three tests.
        assert (test["p"], test["p_adjusted"]) == (2 / 256, 6 / 256)
        assert (test["metric"], test["unit"], test["blocks"]) == ("KL", "nats", 8)


def test_the_same_model_twice_in_one_task_is_two_rows_named_by_their_files(
    directory: Path,
) -> None:
    write(a_result("JANG_4M", "yn"), "first.json")
    write(a_result("JANG_4M", "ny"), "second.json")

    document = json.loads(compare("first.json", "second.json", "--json").stdout)

    assert [model["label"] for model in document["models"]] == [
        f"JANG_4M, smollm2-JANG_4M, 4.50 bpw, {name}.json" for name in ("first", "second")
    ]


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


def test_holm_makes_each_p_as_large_as_its_rank_wants_and_never_smaller_than_the_one_before() -> (
    None
):
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_pareto_front_holds_what_nothing_smaller_or_as_small_beats() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.6), (3.0, 0.6), (1.0, 0.5)]
    assert pareto_front(points, higher=True) == [True, False, True, False, True]
    assert pareto_front(points, higher=False) == [True, True, False, False, True]


def test_axes_have_few_ticks_at_round_numbers_around_all_values() -> None:
    axis = linear_axis("share", [0.33, 0.71], scale=100)
    assert [label for _, label in axis.ticks] == ["30", "40", "50", "60", "70", "80"]
    assert axis.place(0.55) == pytest.approx(0.5)
    assert linear_axis("one value", [3.0]).place(3.0) == pytest.approx(0.5)

    axis = logarithmic_axis("nats", [0.003, 0.04, 0.9])
    assert [label for _, label in axis.ticks] == ["0.01", "0.1", "1"]
    assert axis.place(0.002) == 0
    assert axis.place(1.0) == 1
    assert axis.place(0.2) - axis.place(0.02) == pytest.approx(axis.place(0.02) - axis.place(0.002))

    axis = logarithmic_axis("nats", [0.0, 0.03, 0.04])
    assert [label for _, label in axis.ticks] == ["0", "0.02", "0.03", "0.04", "0.05"]
    assert axis.place(0.0) == 0 < axis.place(0.02) < axis.place(0.05) == 1


class Elements(HTMLParser):
    """Every element with its attributes, and all text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def a_hostile_result(label: str) -> EvaluationResult:
    result = a_result(label, "yn")
    return dataclasses.replace(
        result,
        task=HOSTILE,
        target=HOSTILE,
        jang_eval_version=HOSTILE,
        settings={HOSTILE: HOSTILE},
        model=dataclasses.replace(
            result.model,
            name=HOSTILE,
            profile=label + HOSTILE,
            architecture=HOSTILE,
            source_name=HOSTILE,
            digest="",
            plan=(PlanRow(HOSTILE, 4, 64, 1, 1, 1),),
        ),
        metrics=tuple(
            dataclasses.replace(metric, name=name, unit=unit)
            for metric, name, unit in zip(
                result.metrics,
                (HOSTILE, "KL", f"{HOSTILE}/{HOSTILE}"),
                (HOSTILE, "nats", HOSTILE),
                strict=False,
            )
        ),
        outcomes=tuple(
            dataclasses.replace(
                outcome,
                id=f"{HOSTILE}{outcome.id}",
                group=HOSTILE,
                numbers={**outcome.numbers, HOSTILE: 1.0},
                texts={HOSTILE: HOSTILE + label},
                arrays={"divergence": (0.1, 0.2)},
            )
            for outcome in result.outcomes
        ),
    )


def test_nothing_that_models_or_files_say_becomes_part_of_the_page(directory: Path) -> None:
    harmless = Elements(page_of({"a.json": a_result("a", "yn"), "b.json": a_result("b", "yn")}))
    page = page_of({"a.json": a_hostile_result("a"), "b.json": a_hostile_result("b")})
    hostile = Elements(page)

    assert {tag for tag, _ in hostile.found} <= {tag for tag, _ in harmless.found} | {"g", "rect"}
    assert [tag for tag, _ in hostile.found].count("script") == 1
    for tag, attributes in hostile.found:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        assert attributes.get("href", "data:,") == "data:,"
    assert "<script>alert(1)</script><img src=x onerror=alert(1)>" in hostile.text
    assert "${script_digest}" in hostile.text
    assert not {"\u202e", "\x00", "\x1b"} & {*page}


def page_of(results: dict[str, EvaluationResult]) -> str:
    for name, result in results.items():
        write(result, name)
    done = compare(*results, "--html", "page.html", "--commit", HOSTILE)
    assert done.exit_code == 0, done.output
    assert done.stderr == "wrote page.html\n"
    return Path("page.html").read_text(encoding="utf-8")


def test_the_page_says_how_it_was_made_and_is_the_same_each_time(directory: Path) -> None:
    files = [str(file) for file in MADE["write_all"](directory, 3)]
    pages: list[str] = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", "from jang_eval.cli import app; app()", "compare"]
        subprocess.run(
            [*command, *files, "--html", "page.html", "--commit", "0123abc"],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        pages.append(Path("page.html").read_text(encoding="utf-8"))

    assert pages[0] == pages[1]
    text = Elements(pages[0]).text
    for told in ("0123abc", "Task kl, version 1", f"data sha256 {'ab' * 32}", "seed: 0"):
        assert told in text
    assert "127.0.0.1:50051" in text


def test_the_heat_map_has_the_bytes_of_each_role_by_bits_and_is_darker_where_more_are(
    directory: Path,
) -> None:
    plan = (
        PlanRow("attention", 4, 64, 30, 1, 1_000_000),
        PlanRow("attention", 4, 32, 30, 1, 1_000_000),
        PlanRow("mlp", 2, 64, 90, 1, 6_000_000),
        PlanRow("mlp", 4, 64, 3, 1, 1_000_000),
        PlanRow("norm", None, None, 61, 1, 1_000_000),
    )
    model = dataclasses.replace(MADE["a_model"]("a", 4.5), plan=plan, plan_digest="5a" * 32)
    page = page_of({"a.json": a_result("a", "yn", model=model)})

    (part,) = re.findall("<h2>Where the bytes are</h2>(.*?)</section>", page, re.DOTALL)
    assert "a: 10.0 MB" in part
    heads = re.findall('<th scope="col">(.*?)</th>', part)
    rows = re.findall('<tr><th scope="row">(.*?)</th>(.*?)</tr>', part)
    cells = {
        (role, bits): re.sub("<.*?>", " ", content)
        for role, row in rows
        for bits, content in zip(heads[1:], re.findall("<td.*?</td>", row), strict=True)
    }
    assert heads == ["MB", "2 bits", "4 bits", "other"]
    assert {place: text.split() for place, text in cells.items() if text.strip()} == {
        ("attention", "4 bits"): ["2.0", "20.0", "%"],
        ("mlp", "2 bits"): ["6.0", "60.0", "%"],
        ("mlp", "4 bits"): ["1.0", "10.0", "%"],
        ("norm", "other"): ["1.0", "10.0", "%"],
    }
    assert 'class="heat1" title="60 modules, groups of 32, 64">2.0<' in part
    assert 'class="heat3" title="90 modules, groups of 64">6.0<' in part
    assert 'class="heat0" title="61 modules">1.0<' in part

    (made,) = re.findall("<h2>How this was made</h2>(.*?)</section>", page, re.DOTALL)
    assert '<th scope="col">plan digest</th>' in made
    assert f"<td>{'5a' * 8}</td>" in made


def test_failures_begin_where_models_disagree_and_take_groups_in_turn(directory: Path) -> None:
    groups = "aaaabbc"
    results = {
        f"{name}.json": a_result(
            name,
            "y",
            outcomes=tuple(
                Outcome(f"q{index}", group, {"correct": float(right == "y")}, {"said": f"{name}!"})
                for index, (group, right) in enumerate(zip(groups, rights, strict=True))
            ),
        )
        for name, rights in {"one": "ynnnynn", "two": "ynyynyn"}.items()
    }
    page = page_of(results)
    found = re.findall("<summary>(q[^<]*)</summary>", page)
    # q0 was right in both.
    assert found == [
        "q2 (a): 1 of 2 right",
        "q4 (b): 1 of 2 right",
        "q3 (a): 1 of 2 right",
        "q5 (b): 1 of 2 right",
        "q1 (a): 0 of 2 right",
        "q6 (c): 0 of 2 right",
    ]
    assert page.count("one!") == page.count("two!") == 6


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


def test_every_metric_that_has_a_better_side_has_charts_and_speed_has_bars(
    directory: Path,
) -> None:
    results = {f"{n}.json": MADE["a_kl"](label, 4.5) for n, label in enumerate("ab")}
    results |= {f"s{n}.json": MADE["a_speed"](label, 4.5) for n, label in enumerate("ab")}
    page = page_of(results)
    charts = [attributes["aria-label"] for tag, attributes in Elements(page).found if tag == "svg"]
    for metric in ("KL", "KL/median", "KL/max", "RMS"):
        assert f"kl: {metric} against bytes" in charts
        assert f"kl: {metric} against bits per weight" in charts
        assert f"<option>{metric}</option>" in page
    assert not [name for name in charts if name and name.startswith("speed:")]
    for metric in ("decode (tokens/s) ↑", "time to first token (s) ↓"):
        assert metric in charts


def test_long_names_are_in_lines_none_of_which_is_longer_than_it_may_be() -> None:
    assert wrapped("JANG_4M", 20) == ["JANG_4M"]
    assert wrapped("SmolLM2-135M-Instruct, MLX uniform 4-bit", 20) == [
        "SmolLM2-135M-",
        "Instruct, MLX",
        "uniform 4-bit",
    ]
    assert wrapped("x" * 100, 20) == ["x" * 20, "x" * 20, "x" * 19 + "…"]


def test_models_that_diverge_nowhere_and_metrics_that_one_model_lacks_have_a_place(
    directory: Path,
) -> None:
    results = {
        "same.json": MADE["a_kl"]("reference", 16.0),
        "other.json": MADE["a_kl"]("JANG_2S", 3.2),
    }
    results["same.json"] = dataclasses.replace(
        results["same.json"], metrics=results["same.json"].metrics[:1]
    )
    text = Elements(page_of(results)).text
    assert "0 at each of 1,600 tokens." in text
    assert "JANG_2S: 1,600 tokens" in text
    page_of({"same.json": results["same.json"]})
