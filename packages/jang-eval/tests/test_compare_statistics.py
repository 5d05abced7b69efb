"""The tests and counts with which `compare` says whether models differ."""

import dataclasses
import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from jang_eval._evaluation import Metric, Outcome
from jang_eval._statistics import holm

MADE = run_path(str(Path(__file__).with_name("made_results.py")))
COMPARED = run_path(str(Path(__file__).with_name("compared.py")))
directory = COMPARED["directory"]
a_result = COMPARED["a_result"]
write = COMPARED["write"]
compare = COMPARED["compare"]


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


def test_holm_makes_each_p_as_large_as_its_rank_wants_and_never_smaller_than_the_one_before() -> (
    None
):
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
