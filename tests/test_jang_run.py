"""`jang run`, as a person types it, on the real model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jang_format import read_json

QUESTION = "What is 2+2?"


def jang_run(home: Path, *arguments: str, text: str | None = None) -> tuple[int, str, str]:
    """Status, stdout and stderr of `jang run`."""
    ended = subprocess.run(
        [sys.executable, "-m", "jang.cli", "run", *arguments],
        env=os.environ | {"JANG_HOME": str(home)},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_the_first_run_converts_and_answers_and_the_second_finds_the_result(
    tmp_path: Path,
) -> None:
    status, answer, log = jang_run(tmp_path, "smollm2", QUESTION, "--max-tokens", "24")
    assert status == 0, log
    assert "4" in answer
    assert "the source is quantized already (GGUF Q4_1, Q8_0): what it lost stays lost" in log
    assert "converting" in log
    (converted,) = (tmp_path / "models").iterdir()
    assert converted.name.startswith("smollm2-JANG_4M-")
    before = converted.stat().st_mtime_ns
    again = jang_run(tmp_path, "smollm2", QUESTION, "--max-tokens", "24")
    assert again[:2] == (0, answer)
    assert "converting" not in again[2]
    assert [path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()] == [before]
    # A directory that is quantized already runs as it is.
    direct = jang_run(tmp_path / "unused", str(converted), QUESTION, "--max-tokens", "24")
    assert direct[:2] == (0, answer)
    assert not (tmp_path / "unused").exists()


def test_without_a_prompt_it_chats(tmp_path: Path, tiny_source: Path) -> None:
    status, answers, log = jang_run(
        tmp_path, str(tiny_source), "--max-tokens", "3", "--profile", "2S", text="hi\nagain\n"
    )
    assert status == 0, log
    assert answers
    assert "JANG_2S" in next((tmp_path / "models").iterdir()).name


def test_bits_are_a_budget_that_the_converted_model_keeps(
    tmp_path: Path, tiny_source: Path
) -> None:
    status, answer, log = jang_run(
        tmp_path, str(tiny_source), "hi", "--max-tokens", "3", "--bits", "5.5"
    )
    assert status == 0, log
    assert answer
    (converted,) = (tmp_path / "models").iterdir()
    assert converted.name.startswith(f"{tiny_source.name}-5.5-bits-")
    bits = read_json(converted / "jang_config.json")["quantization"]["bits_per_weight"]
    assert 5.0 < bits <= 5.5


def test_ctrl_c_while_converting_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "jang.cli", "run", "smollm2", QUESTION],
        env=os.environ | {"JANG_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        models = tmp_path / "models"
        deadline = time.monotonic() + 120
        while not any(models.glob(".*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert any(models.glob(".*.partial"))
        process.send_signal(signal.SIGINT)
        answer, log = process.communicate(timeout=120)
    assert process.returncode == 130, log
    assert answer == ""
    assert "Traceback" not in log
    assert list(models.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense", "hi"], "error: SOURCE: found 'nonsense', expected a directory, a GGUF file"),
        (["smollm2", "hi", "--profile", "9X"], "error: profile: found '9X', expected one of JANG"),
        (["smollm2", "hi", "-p", "4M", "--bits", "3"], "error: --profile, --bits, --size and"),
        (["smollm2", "hi", "--temperature", "-1"], "error: sampling.temperature: found -1.0"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    status, answer, log = jang_run(tmp_path, *arguments)
    assert (status, answer) == (2, "")
    assert message in log
    assert "Traceback" not in log


def test_a_directory_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    blocks = Path(__file__).parent / "data" / "blocks-of-all-widths"
    status, _, log = jang_run(tmp_path, str(blocks), "hi")
    assert status == 2
    assert log.startswith(f"error: {blocks}: no tokenizer can be made of it")
    assert log.count("\n") == 1


def test_help_shows_an_example(tmp_path: Path) -> None:
    status, text, _ = jang_run(tmp_path, "--help")
    assert status == 0
    assert 'jang run smollm2 "What is 2+2?"' in text
