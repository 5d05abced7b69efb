"""Judges language models that are served over the JANG gRPC API.

>>> from jang_eval import run_qa
>>> run_qa("localhost:50051").totals.correct  # doctest: +SKIP
6
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
from jang_eval._failure_modes import FailureMode, detect_failure_mode
from jang_eval._judge import Verdict
from jang_eval._qa import run_qa
from jang_eval._results import QaResult, read_result, write_result
from jang_eval._version import __version__

__all__ = [
    "ComparisonError",
    "DataError",
    "FailureMode",
    "JangEvalError",
    "OptionError",
    "ProgramError",
    "QaResult",
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
