"""What `report` is made of, without servers."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_eval._documents import write_document
from jang_eval._errors import OptionError, ProgramError
from jang_eval._protocol.candidates import Candidate, candidates, make
from jang_eval._protocol.pages import Making, bring_report_together, write_pages
from jang_eval._protocol.programs import find_program, run_converter
from jang_eval._protocol.running import Failure, Report
from jang_eval._protocol.steps import Steps
from jang_eval._records import to_json
from jang_eval.cli import app

MADE = run_path(str(Path(__file__).with_name("made_results.py")))


def models(source: str, tmp_path: Path, **changes: Any) -> list[Candidate]:
    options: dict[str, Any] = {"profiles": [], "bits": [], "directories": [], "reference": None}
    return candidates(source, tmp_path / "models", **(options | {"method": []} | changes))


def test_models_are_named_by_what_they_are_and_the_reference_is_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    found = models(
        str(source),
        tmp_path,
        profiles=["4M", "JANG_2S"],
        bits=[2.5, 3.0],
        directories=[("mlx-4", source)],
        method=["--method", "gptq"],
    )
    assert [each.name for each in found] == [
        *("reference", "JANG_4M", "JANG_2S", "bits-2.5", "bits-3", "mlx-4"),
    ]
    assert found[0] == Candidate("reference", source)
    assert found[1].arguments == ("--profile", "JANG_4M", "--method", "gptq")
    assert found[3].arguments == ("--bits", "2.5", "--method", "gptq")
    assert [each.source for each in found] == [None, *[str(source)] * 4, None]
    # What is no directory cannot be served as it is; the method of others is not the reference's.
    first = models("smollm2", tmp_path, method=["--method", "gptq"])[0]
    assert first.arguments == ("--bits", "9", "--group-size", "32")
    assert models("smollm2", tmp_path, reference=str(source))[0].directory == source


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profiles": ["4M", "JANG_4M"]}, "found JANG_4M twice"),
        ({"directories": [("reference", Path("/"))]}, "found reference twice"),
        ({"directories": [("../x", Path("/"))]}, "found the name '../x'"),
        ({"directories": [("x", Path("/nowhere"))]}, "found no directory /nowhere"),
        ({"reference": "/nowhere"}, "reference: found nothing at /nowhere, expected a directory"),
        ({"reference": "smollm3"}, "expected a directory, a GGUF file, a hub id, or smollm2"),
    ],
)
def test_names_that_are_none_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        models("smollm2", tmp_path, **changes)


def test_ids_of_the_hub_are_converted_source_and_reference_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "jang-quant"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    out = tmp_path / "models"
    out.mkdir()
    for each in models("Qwen/Qwen3-0.6B", tmp_path, profiles=["4M"], reference="Qwen/Qwen3-4B"):
        assert make(each, tmp_path / "log")
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"convert Qwen/Qwen3-4B {out}/reference --bits 9 --group-size 32",
        f"convert Qwen/Qwen3-0.6B {out}/JANG_4M --profile JANG_4M",
    ]


def test_another_conversion_in_the_same_place_is_not_taken_for_this_one(tmp_path: Path) -> None:
    out = tmp_path / "JANG_4M"
    out.mkdir()
    candidate = Candidate("JANG_4M", out, "smollm2", ("--profile", "JANG_4M"))
    with pytest.raises(ProgramError, match="found converted with nobody knows what, expected"):
        make(candidate, tmp_path / "log")
    note = tmp_path / "JANG_4M.json"
    note.write_text(json.dumps({"source": "smollm2", "arguments": ["--profile", "JANG_4M"]}))
    assert not make(candidate, tmp_path / "log")
    with pytest.raises(ProgramError, match='"smollm2", .*expected .*"other.gguf"'):
        make(dataclasses.replace(candidate, source="other.gguf"), tmp_path / "log")


def test_a_program_that_is_not_installed_is_one_line_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match="jang-quant: found no such command"):
        find_program("jang-quant")
    result = CliRunner().invoke(
        app, ["report", "smollm2", "--profiles", "4M", "--work", str(tmp_path / "work")]
    )
    assert result.exit_code == 2
    assert result.stderr == (
        "error: jang-runtime: found no such command, expected it installed "
        "(pip install jang-runtime)\n"
    )
    assert not (tmp_path / "work").exists()


def test_the_time_left_is_what_such_steps_took(tmp_path: Path) -> None:
    steps = Steps([(model, name) for model in ("a", "b", "c") for name in ("kl", "qa")])
    assert steps.describe(("a", "kl")) == "[1 of 6] a: kl"
    steps.end(("a", "kl"), 100.0)
    # Nothing is known of qa but that kl took so long.
    assert steps.describe(("a", "qa")) == "[2 of 6] a: qa; about 8 min left"
    steps.end(("a", "qa"), 10.0)
    assert steps.describe(("b", "kl")) == "[3 of 6] b: kl; about 4 min left"
    steps.end(("b", "kl"), None)
    steps.end(("b", "qa"), 30.0)
    assert steps.describe(("c", "kl")) == "[5 of 6] c: kl; about 2 min left"
    steps.end(("c", "kl"), None)
    assert steps.describe(("c", "qa")) == "[6 of 6] c: qa; about 20 s left"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "2.5,x"], "bits: found '2.5,x', expected numbers"),
        (["--directory", "4bit"], "directory: found '4bit', expected NAME=DIR"),
        (["--window", "2"], "window: found 2, expected at least 4 tokens"),
        (["--rounds", "0"], "rounds: found 0, expected 1 to"),
        (["--text", "/nowhere.txt"], "/nowhere.txt: cannot be read"),
        (["--mmlu", "/nowhere"], "/nowhere: found no directory"),
        (["--questions", "/nowhere"], "/nowhere: cannot be read"),
        (["--mmlu", "hub:cais"], "found 'hub:cais', expected hub:OWNER/NAME"),
        (["--timeout", "0"], "timeout: found 0, expected seconds above 0"),
        (["--max-size", "nan"], "max_size: found nan, expected GB above 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_done(
    tmp_path: Path, options: list[str], said: str
) -> None:
    work = tmp_path / "work"
    result = CliRunner().invoke(app, ["report", "smollm2", "--work", str(work), *options])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not work.exists()


def test_a_second_signal_leaves_no_program_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "jang-quant"
    program.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with _interrupted_every(0.5), pytest.raises(KeyboardInterrupt):
        run_converter("smollm2", tmp_path / "out", (), tmp_path / "log")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@contextmanager
def _interrupted_every(seconds: float) -> Generator[None]:
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_report_of_failures_alone_names_no_place_of_this_machine_and_keeps_no_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "my work"
    work.mkdir()
    (work / "report.html").write_text("old")
    text = tmp_path / "a text.txt"
    text.write_text("Words.")
    (tmp_path / "other.txt").write_text("Words.")
    reason = f"ended with status 2: /srv/models/x: no file (in {work}/logs/a.log), 5 tokens/s"
    heard: list[object] = []

    def run(*_: object) -> Report:
        heard.append(signal.getsignal(signal.SIGHUP))
        return Report(failures=[Failure("a", "serve", reason)])

    monkeypatch.setattr("jang_eval._commands.report.run_protocol", run)
    # As nohup starts programs.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = CliRunner().invoke(
            app,
            [
                *("report", str(tmp_path), "--work", str(work), "--seed", "1"),
                *("--directory", f"x={tmp_path}", "--allow-code-execution", "--commit", "0123abc"),
                *("--text", str(text), "--text", str(tmp_path / "other.txt")),
            ],
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIG_IGN]
    assert result.exit_code == 1, result.output
    assert not (work / "report.html").exists()
    page = (work / "report.md").read_text()
    assert "a: serve: ended with status 2: x: no file (in logs/a.log), 5 tokens/s" in page
    assert (
        f"- Command: `jang-eval report {tmp_path.name} --work 'my work' "
        f"--directory x={tmp_path.name} --allow-code-execution --text 'a text.txt' "
        "--text other.txt --seed 1 --commit 0123abc`\n- Commit: `0123abc`\n"
    ) in page
    assert str(tmp_path) not in page


def test_both_pages_of_a_report_have_its_command_and_commit(tmp_path: Path) -> None:
    report = Report()
    write_document(to_json(MADE["a_kl"]("JANG_4M", 4.0)), tmp_path / "a-kl.json")
    report.results.append(("a", tmp_path / "a-kl.json"))
    command = "jang-eval report smollm2 --profiles " + ",".join(["4M"] * 100)
    overview = bring_report_together(report)
    write_pages(overview, tmp_path, "a", [], [], Making(command, "0123abc"))
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert command in text
        assert "0123abc" in text
    write_pages(overview, tmp_path, "a", [], [], Making(command, ""))
    assert "Commit" not in (tmp_path / "report.md").read_text()


def test_a_model_that_comes_twice_keeps_its_own_results(tmp_path: Path) -> None:
    report = Report()
    for name, task in (("a", "kl"), ("b", "kl"), ("b", "speed")):
        made = MADE[f"a_{task}"]("JANG_4M", 4.0)
        write_document(to_json(made), tmp_path / f"{name}-{task}.json")
        report.results.append((name, tmp_path / f"{name}-{task}.json"))
    overview = bring_report_together(report)
    assert overview is not None
    assert [each.label for each in overview.models] == ["a", "b"]
    assert [[run.model.label for run in table.runs] for table in overview.tasks] == [
        ["a", "b"],
        ["b"],
    ]


def test_a_seed_below_zero_is_refused_before_anything_is_asked() -> None:
    result = CliRunner().invoke(app, ["speed", "--target", "127.0.0.1:1", "--seed", "-1"])
    assert result.exit_code == 2
    assert "--seed" in result.stderr
    assert "not reachable" not in result.stderr
