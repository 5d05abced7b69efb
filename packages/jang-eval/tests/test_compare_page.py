"""The page of `compare --html`, as text; a browser looks at it in another file."""

import dataclasses
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from runpy import run_path

import pytest

from jang_eval._compare.axes import linear_axis, logarithmic_axis
from jang_eval._compare.charts import wrapped
from jang_eval._compare.figures import pareto_front
from jang_eval._evaluation import EvaluationResult, Outcome
from jang_eval._model_info import PlanRow

MADE = run_path(str(Path(__file__).with_name("made_results.py")))
COMPARED = run_path(str(Path(__file__).with_name("compared.py")))
directory = COMPARED["directory"]
a_result = COMPARED["a_result"]
write = COMPARED["write"]
compare = COMPARED["compare"]

# Closes whatever it may stand in, and opens what runs or loads.
HOSTILE = (
    "</title></pre></style></script>--><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\" onload='x' \u202eexe.txt\x00\x1b[2J $sections ${script_digest} &amp; " + "long" * 80
)


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
