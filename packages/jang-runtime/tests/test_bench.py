"""`jang-runtime bench`: records are whole, and follow from what the runs took. No times."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_format import BLOCK_LAYOUT, convert_layout, read_directory
from jang_runtime._bench import Contender, bench, stock_mlx_lm
from jang_runtime._bench_record import Program, program_record
from jang_runtime._bench_task import (
    BenchOptions,
    RunTimes,
    StepTimes,
    make_steps,
    shortened,
)
from jang_runtime._errors import BenchError, ModelError
from jang_runtime.cli import app

SIZES = ["--prompt-tokens", "9,21", "--decode-tokens", "4", "--batch", "1,3", "--runs", "2"]
SPEEDS = ["prefill_9", "prefill_21", "decode", "batch_decode_1", "batch_decode_3"]


@pytest.fixture(scope="module")
def document(tiny_model: Path) -> dict[str, Any]:
    arguments = ["bench", str(tiny_model), "--against", "mlx-lm", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, [*arguments, *SIZES])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_every_program_has_every_measure_of_every_run(document: dict[str, Any]) -> None:
    names = ["load", "first_token", *SPEEDS, "resident_peak", "mlx_peak"]
    few = ["load", "first_token", "prefill_9", "decode", "resident_peak", "mlx_peak"]
    found = {
        program["name"]: {each["name"]: each for each in program["measures"]}
        for program in document["programs"]
    }
    assert {name: list(measures) for name, measures in found.items()} == {
        "jang-runtime": names,
        "mlx-lm": names,
        "mlx-lm as it loads": few,
    }
    for name, measures in found.items():
        for each in measures.values():
            assert len(each["values"]) == (1 if name == "mlx-lm as it loads" else 2)
            assert all(value > 0 for value in each["values"])
            assert each["median"] == statistics.median(each["values"])
            assert (each["lowest"], each["highest"]) == (min(each["values"]), max(each["values"]))
            expected = "tokens/s" if each["name"] in SPEEDS else "s"
            assert each["unit"] == ("bytes" if each["name"].endswith("peak") else expected)


def test_ratios_are_those_of_the_medians_to_the_best_other_program(
    document: dict[str, Any],
) -> None:
    medians = [
        {each["name"]: each["median"] for each in program["measures"]}
        for program in document["programs"]
    ]
    ours, *others = medians
    assert [ratio["measure"] for ratio in document["ratios"]] == list(ours)
    for ratio in document["ratios"]:
        name = ratio["measure"]
        theirs = [each[name] for each in others if name in each]
        expected = ours[name] / max(theirs) if name in SPEEDS else min(theirs) / ours[name]
        assert ratio["ratio"] == pytest.approx(expected)


def test_the_record_says_where_and_how_it_was_measured(document: dict[str, Any]) -> None:
    assert document["options"] == {
        "prompt_tokens": [9, 21],
        "decode_tokens": 4,
        "batches": [1, 3],
        "runs": 2,
        "threads": 1,
    }
    assert document["model"]["profile"] == "JANG_4M"
    where = document["conditions"]
    assert where["threads"] == 1
    assert set(where["versions"]) == {"jang-runtime", "mlx", "mlx-lm", "numpy"}
    if where["facts"]["backend"] == "cpu":
        assert {"backend", "device", "BLAS", "CPU kernels"} == set(where["facts"])
    assert document["programs"][2]["note"].startswith("BF16")


def test_the_table_has_every_measure_and_nothing_else_is_on_stdout(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(tiny_model), *SIZES[:-1], "1"])
    assert result.exit_code == 0, result.stderr
    for text in ("load", "prompt of 21", "decode, 3 at a", "peak of"):
        assert text in result.stdout
    assert "ratio" not in result.stdout
    assert "runs" in result.stderr


def test_no_two_prompts_of_a_run_begin_alike() -> None:
    steps = make_steps(BenchOptions(), vocabulary_size=49152, warm_up=True)
    prompts = [prompt for step in steps for prompt in step.prompts]
    assert len({prompt[:4] for prompt in prompts}) == len(prompts)
    assert [len(step.prompts) for step in steps if step.batched] == [1, 1, 4, 4, 16, 16]
    others = make_steps(BenchOptions(), vocabulary_size=49152, warm_up=True, salt=1)
    again = [prompt for step in others for prompt in step.prompts]
    assert len({prompt[:4] for prompt in prompts + again}) == 2 * len(prompts)


def test_a_slow_program_gets_few_tokens_and_no_batch() -> None:
    steps = shortened(make_steps(BenchOptions(), vocabulary_size=100, warm_up=False))
    assert [step.name for step in steps] == ["first_token", "prefill_128", "decode"]
    assert {len(step.prompts[0]) for step in steps} == {8}
    assert max(step.max_tokens for step in steps) == 4


def test_speeds_are_tokens_of_the_prompt_or_tokens_after_the_first() -> None:
    steps = (
        StepTimes("first_token", prompt_tokens=16, first=0.5, decoded=3, decode=1.0),
        StepTimes("", prompt_tokens=16, first=9.0, decoded=0, decode=0.0),
        StepTimes("prefill_128", prompt_tokens=128, first=2.0, decoded=0, decode=0.0),
        StepTimes("batch_decode_4", prompt_tokens=64, first=2.0, decoded=40, decode=4.0),
    )
    run = RunTimes(3.0, 1.0, steps, 100, 0, {}, {})
    measures = program_record(Program("p", ""), [run]).measures
    assert {name: measure.values for name, measure in measures.items()} == {
        "load": (1.0,),
        "first_token": (3.5,),
        "prefill_128": (64.0,),
        "batch_decode_4": (10.0,),
        "resident_peak": (100,),
    }


def test_stock_mlx_lm_runs_without_anything_of_ours(tiny_model: Path) -> None:
    """Not even our BLAS, which `import jang_runtime` puts under MLX."""
    command = stock_mlx_lm(tiny_model)[0].command
    assert command[1:-1] == ["-P"]
    imports = {
        line.split()[1].partition(".")[0]
        for line in Path(command[-1]).read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert "jang_runtime" not in imports


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--prompt-tokens", "1,x"], "--prompt-tokens"),
        (["--batch", "0"], "--batch"),
        (["--prompt-tokens", "5000"], "jang-runtime"),
    ],
)
def test_mistakes_end_with_one_line(tiny_model: Path, arguments: list[str], field: str) -> None:
    result = CliRunner().invoke(app, ["bench", str(tiny_model), *arguments])
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {field}: found")
    assert "expected" in line


def test_stock_mlx_lm_is_not_asked_to_load_blocks(tiny_model: Path, tmp_path: Path) -> None:
    blocks = tmp_path / "blocks"
    convert_layout(read_directory(tiny_model), blocks, BLOCK_LAYOUT)
    with pytest.raises(ModelError, match="found block layout, expected MLX layout"):
        stock_mlx_lm(blocks)


def test_a_program_that_fails_is_named_with_what_it_said(tiny_model: Path) -> None:
    broken = Contender(
        Program("other", ""), [sys.executable, "-c", "raise SystemExit('no room')"], ""
    )
    with pytest.raises(
        BenchError, match="other: found exit status 1, expected 0; it said: no room"
    ):
        bench(tiny_model, [broken], BenchOptions(runs=1))
