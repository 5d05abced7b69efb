"""Conversions that are broken off: the same command goes on, and the result is the same."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_format import validate
from jang_quant import (
    Request,
    convert,
    find_profile,
    open_source,
    plan_source,
    prepare,
)
from jang_quant._errors import ConversionError
from jang_quant._request import asked_of
from jang_quant._work import work_folder
from jang_quant.cli import app

KILLS = run_path(str(Path(__file__).with_name("kills.py")))
Command, content, work_of = KILLS["Command"], KILLS["content"], KILLS["work_of"]


def test_five_kills_at_any_moment_leave_the_result_as_it_would_be(
    tiny_source: Path, tmp_path: Path
) -> None:
    """The whole campaign is one command; see kills.py."""
    command = Command(str(tiny_source), KILLS["write_text"](tmp_path / "text.txt"))
    seconds = command.finish(tmp_path / "unbroken")
    chance = random.Random(5)
    out = tmp_path / "killed"
    for _ in range(5):
        if not out.exists():
            command.kill(out, chance.uniform(0, 0.4 * seconds))
    if not out.exists():
        command.finish(out)
    assert content(out) == content(tmp_path / "unbroken")
    assert not work_of(out).exists()


class Stop(Exception):
    pass


def stop_after(count: int) -> Callable[[Any], None]:
    def on_progress(progress: Any) -> None:
        nonlocal count
        count -= 1
        if count == 0:
            raise Stop

    return on_progress


@pytest.fixture
def broken_off(tiny_source: Path, tmp_path: Path) -> Path:
    """The folder of a conversion that was broken off after eight tensors."""
    source = open_source(str(tiny_source))
    plan = plan_source(source, find_profile("4M"))
    with (
        pytest.raises(Stop),
        work_folder(tmp_path / "out", asked_of(source, Request(profile="4M"))) as folder,
    ):
        convert(source, tmp_path / "out", plan, stop_after(8), folder=folder)
    return work_of(tmp_path / "out")


def finished(tiny_source: Path, out: Path, *options: str) -> dict[str, bytes]:
    result = CliRunner().invoke(app, ["convert", str(tiny_source), str(out), "-p", "4M", *options])
    assert result.exit_code == 0, result.stderr
    assert not work_of(out).exists()
    assert validate(out).problems == ()
    return content(out)


def test_what_is_done_is_not_done_again(
    tiny_source: Path, tmp_path: Path, broken_off: Path
) -> None:
    source = open_source(str(tiny_source))
    plan = plan_source(source, find_profile("4M"))
    seen: list[Any] = []
    asked = asked_of(source, Request(profile="4M"))
    with work_folder(tmp_path / "out", asked) as folder:
        again = convert(source, tmp_path / "out", plan, seen.append, folder=folder)
    assert len(seen) == len(plan.modules) + len(plan.others) - 8
    assert seen[-1].done == plan.tensor_bytes
    assert [module.path for module in again.modules] == [module.path for module in plan.modules]
    convert(source, tmp_path / "whole", plan)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_bytes_that_are_not_what_the_journal_says_are_written_anew(
    tiny_source: Path, tmp_path: Path, broken_off: Path
) -> None:
    whole = finished(tiny_source, tmp_path / "whole")
    shard = broken_off / "directory" / "model-00001-of-00001.safetensors"
    with shard.open("r+b") as stream:
        stream.seek(-200, 2)
        stream.write(b"\xff" * 100)
    with (broken_off / "journal.jsonl").open("a") as stream:
        stream.write('{"tensor": "model.nor')
    assert finished(tiny_source, tmp_path / "out") == whole


@pytest.mark.parametrize("options", [["--no-resume"], ["--group-size", "32"]])
def test_other_work_and_unwanted_work_is_not_taken_up(
    options: list[str], tiny_source: Path, tmp_path: Path, broken_off: Path
) -> None:
    marked = broken_off / "directory" / "left.safetensors"
    marked.write_bytes(b"")
    made = finished(tiny_source, tmp_path / "out", *options)
    assert "left.safetensors" not in made
    assert made == finished(tiny_source, tmp_path / "whole", *options)


def test_two_processes_do_not_work_on_one_output(tiny_source: Path, tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", {}) as folder:
        result = CliRunner().invoke(app, ["convert", str(tiny_source), str(tmp_path / "out")])
        assert result.exit_code == 2
        assert "another process is at work on it" in result.stderr
        assert folder.exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    source = open_source(str(tiny_source))
    with pytest.raises(ConversionError, match="OUT: found 0.00 GB free on the disk"):
        convert(source, tmp_path / "out", plan_source(source, find_profile("4M")))
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_is_done_is_not_made_again(tiny_source: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_source))
    text = KILLS["write_text"](tmp_path / "text.txt")
    request = Request(bits=4, method="gptq", calibration=str(text), sequences=3, length=32)
    seen: list[Any] = []
    first = prepare(source, request, tmp_path, seen.append)
    assert seen
    seen.clear()
    again = prepare(source, request, tmp_path, seen.append)
    assert seen == []
    assert again.plan == first.plan


def test_a_budget_that_nothing_meets_is_refused_before_calibration(
    tiny_source: Path, tmp_path: Path
) -> None:
    command = ["convert", str(tiny_source), str(tmp_path / "out"), "--bits", "1.5", "-m", "gptq"]
    result = CliRunner().invoke(app, [*command, "--calibration", "nowhere.txt"])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "budget: found" in result.stderr
    assert "writing text" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_no_output(tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "empty")
    result = CliRunner().invoke(app, ["convert", str(tiny_source), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "exists already" in result.stderr
