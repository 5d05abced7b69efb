import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

import jang_eval
from jang_eval.cli import app


def test_the_public_names_are_these_and_all_there() -> None:
    assert jang_eval.__all__ == [
        "ComparisonError",
        "DataError",
        "EvaluationResult",
        "FailureMode",
        "Interval",
        "JangEvalError",
        "Metric",
        "OptionError",
        "Outcome",
        "ProgramError",
        "ResultFileError",
        "SandboxError",
        "TargetError",
        "Verdict",
        "__version__",
        "detect_failure_mode",
        "read_result",
        "run_qa",
        "write_result",
    ]
    for name in jang_eval.__all__:
        assert getattr(jang_eval, name) is not None


def test_the_version_is_that_of_the_installed_package() -> None:
    assert version("jang-eval") == jang_eval.__version__
    assert CliRunner().invoke(app, ["--version"]).stdout == f"jang-eval {jang_eval.__version__}\n"


def test_the_command_line_imports_neither_mlx_nor_another_jang_package_than_the_api() -> None:
    script = "import sys, jang_eval.cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    ).stdout.split()
    ours = {"jang", "jang_format", "jang_quant", "jang_runtime"}
    assert not {"mlx", "mlx_lm", *ours} & {*loaded}
    assert "jang_proto" in loaded


@pytest.mark.parametrize(
    "command",
    ["qa", "compare", "perplexity", "mmlu", "humaneval", "kl", "reference", "logit-mse", "speed"],
)
def test_the_help_of_every_command_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: jang-eval {command} " in result.stdout
