"""Judges language models that are served over the JANG gRPC API.

>>> from jang_eval import run_qa
>>> run_qa("localhost:50051").metrics[0].value  # doctest: +SKIP
1.0
"""

from jang_eval._errors import (
    ComparisonError,
    DataError,
    JangEvalError,
    OptionError,
    ProgramError,
    ResultFileError,
    SandboxError,
    TargetError,
)
from jang_eval._evaluation import EvaluationResult, Metric, Outcome
from jang_eval._result_files import read_result, write_result
from jang_eval._statistics import Interval
from jang_eval._tasks.qa import run_qa
from jang_eval._tasks.qa_failure_modes import FailureMode, detect_failure_mode
from jang_eval._tasks.qa_judge import Verdict
from jang_eval._version import __version__

__all__ = [
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
