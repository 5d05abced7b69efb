"""HumanEval: complete Python functions, which then have to pass tests.

Chen et al. 2021, arXiv:2107.03374. Prompts, stop strings and the program that is run are those of
lm-evaluation-harness.
"""

import gzip
import hashlib
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, Final, cast

import numpy as np

from jang_eval._errors import DataError, OptionError
from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._sandbox import Sandbox, run_program
from jang_eval._statistics import interval_of_share, wilson
from jang_eval._target import Target

# 2: the limit of memory is that of all of a program's processes together; samples that all pass, or
# none, have an interval; settings name the sandbox and all of its limits.
TASK_VERSION: Final = 2
STOP_STRINGS: Final = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_TOKENS: Final = 1024
# Of samples; greedy answers have no use for it.
TOP_P: Final = 0.95
SAMPLES_MAX: Final = 1000
_FIELDS: Final = ("task_id", "prompt", "entry_point", "test")
_KS: Final = (1, 10, 100)


@dataclass(frozen=True)
class Problem:
    """A function to complete.

    Attributes:
        task_id: Such as "HumanEval/0".
        prompt: Its head and docstring.
        entry_point: Its name.
        test: Defines `check(candidate)`.
    """

    task_id: str
    prompt: str
    entry_point: str
    test: str


@dataclass(frozen=True)
class Sampling:
    """How many answers to each problem, and how they are drawn.

    Attributes:
        samples: Answers to each problem.
        temperature: 0 for the most likely answer.
        seed: Of the draws, here and at the server.

    Raises:
        OptionError: If a value is out of range, or several samples would be the same.
    """

    samples: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= SAMPLES_MAX:
            raise OptionError(f"samples: found {self.samples}, expected 1 to {SAMPLES_MAX}")
        if not 0 <= self.temperature <= 100:
            raise OptionError(f"temperature: found {self.temperature:g}, expected 0 to 100")
        if self.samples > 1 and self.temperature == 0:
            raise OptionError(
                f"temperature: found 0 with {self.samples} samples, expected more than 0"
            )


def read_problems(path: Path) -> tuple[list[Problem], str]:
    """Read HumanEval as published, and its digest.

    Args:
        path: HumanEval.jsonl, HumanEval.jsonl.gz, or a directory that holds one of them.

    Raises:
        DataError: If it cannot be read, or is something else.
    """
    names = ("HumanEval.jsonl.gz", "HumanEval.jsonl")
    file = next((path / name for name in names if (path / name).is_file()), path)
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        lines = [line for line in content.decode().splitlines() if line.strip()]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found bytes that are no UTF-8, expected JSON lines") from error
    problems = [_problem(line, f"{file}, line {n}") for n, line in enumerate(lines, 1)]
    repeated = [
        name for name, count in Counter(each.task_id for each in problems).items() if count > 1
    ]
    if not problems or repeated:
        found = f"{repeated[0]!r} twice" if repeated else "no problem"
        raise DataError(f"{file}: found {found}, expected problems of different task_id")
    return problems, hashlib.sha256(content).hexdigest()


def _problem(line: str, where: str) -> Problem:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: found no JSON ({error}), expected a problem") from error
    fields = cast(dict[str, Any], entry) if isinstance(entry, dict) else {}
    for name in _FIELDS:
        if not isinstance(fields.get(name), str):
            raise DataError(f"{where}: {name}: found {fields.get(name)!r}, expected a text")
    return Problem(**{name: fields[name] for name in _FIELDS})


def build_program(problem: Problem, completion: str) -> str:
    """What is run: the function, the tests, and the call of the tests."""
    return f"{problem.prompt}{completion}\n{problem.test}\ncheck({problem.entry_point})"


def task(
    path: Path, sandbox: Sandbox, *, sampling: Sampling | None = None, limit: int | None = None
) -> Task:
    """The task.

    Args:
        path: See `read_problems`.
        sandbox: Where the answers are run.
        sampling: One greedy answer to each problem if None.
        limit: Only that many problems, from the first on.

    Raises:
        DataError: If the data cannot be read.
        OptionError: If `limit` is out of range.
    """
    sampling = sampling or Sampling()
    problems, digest = read_problems(path)
    if limit is not None and not 1 <= limit <= len(problems):
        raise OptionError(f"limit: found {limit}, expected 1 to {len(problems)}")
    settings = {
        "problems": str(limit or len(problems)),
        "samples": str(sampling.samples),
        "temperature": f"{sampling.temperature:g}",
        "top_p": f"{TOP_P if sampling.temperature else 1:g}",
        "seed": str(sampling.seed),
        "max_tokens": str(MAX_TOKENS),
        # Programs that may do less can come to another end.
        "sandbox": sandbox.name,
        **{name: f"{value:.15g}" for name, value in asdict(sandbox.limits).items()},
    }
    return Task(
        name="humaneval",
        version=TASK_VERSION,
        data_sha256=digest,
        settings=settings,
        items=[
            Item(f"{problem.task_id}#{n}", problem.task_id, problem)
            for problem in problems[:limit]
            for n in range(sampling.samples)
        ],
        # As many at a time as there are processors, or their time runs out while they wait.
        ask=partial(_ask, sampling, sandbox, BoundedSemaphore(os.cpu_count() or 1)),
        aggregate=partial(_aggregate, sampling.seed),
    )


def _ask(
    sampling: Sampling, sandbox: Sandbox, running: BoundedSemaphore, target: Target, item: Item
) -> Outcome:
    problem = cast(Problem, item.content)
    drawn = sampling.temperature > 0
    completion = target.complete_text(
        problem.prompt,
        stop_strings=STOP_STRINGS,
        max_tokens=MAX_TOKENS,
        temperature=sampling.temperature,
        top_p=TOP_P if drawn else None,
        seed=_seed(sampling.seed, item.id) if drawn else None,
    )
    with running:
        run = run_program(sandbox, build_program(problem, completion.text))
    return Outcome(
        item.id,
        item.group,
        numbers={
            "passed": float(not run.failure),
            "completion_tokens": completion.completion_tokens,
            "generation_seconds": completion.seconds,
            "run_seconds": run.seconds,
        },
        texts={
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            "failure": run.failure,
            "message": run.message,
        },
    )


def _seed(seed: int, item_id: str) -> int:
    """A 64-bit seed for each answer, the same in every run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}".encode()).digest()[:8], "big")


def pass_at_k(count: int, passed: int, k: int) -> float:
    """How likely one of k answers passes, estimated without bias from `count` (Chen et al. 2021).

    Args:
        count: Answers that were drawn, at least k.
        passed: How many of them passed.
        k: How many answers one may try.
    """
    return 1.0 - math.comb(count - passed, k) / math.comb(count, k)


def _aggregate(seed: int, outcomes: Sequence[Outcome]) -> list[Metric]:
    passed: dict[str, list[bool]] = {}
    for outcome in outcomes:
        passed.setdefault(outcome.group, []).append(outcome.numbers["passed"] > 0)
    samples = len(outcomes) // len(passed)
    if samples == 1:
        right = sum(each[0] for each in passed.values())
        interval = wilson(right, len(passed))
        return [Metric("pass@1", right / len(passed), interval, "", "higher", len(passed))]
    metrics: list[Metric] = []
    for k in sorted({*(k for k in _KS if k <= samples), samples}):
        shares = np.array([pass_at_k(samples, sum(each), k) for each in passed.values()])
        # Answers to one problem are not independent; problems are.
        interval = interval_of_share(shares, np.ones_like(shares), seed)
        metrics.append(
            Metric(f"pass@{k}", float(shares.mean()), interval, "", "higher", len(shares))
        )
    return metrics
