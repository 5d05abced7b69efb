"""What one run of a benchmark does: the same steps, with the same tokens, for every program.

A run is a process of its own that loads the model, takes the steps in order, and prints one JSON
object; it reads the task as JSON from its input. Programs other than ours take the same.
"""

import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

_SEED: Final = 11
# Of the prompt before decoding and of the first request.
_SHORT_PROMPT: Final = 16
_FIRST_TOKENS: Final = 4
# What a program is given that is too slow for more.
_FEW_PROMPT_TOKENS: Final = 8
_FEW_DECODED: Final = 4


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes:
        prompt_tokens: Lengths of the prompts whose processing is measured.
        decode_tokens: Tokens that each request of a decoding measurement generates.
        batches: How many requests decode at a time.
        runs: Processes of each program.
        threads: Threads of each program on the CPU; None leaves it to them.
    """

    prompt_tokens: tuple[int, ...] = (128, 512)
    decode_tokens: int = 64
    batches: tuple[int, ...] = (1, 4, 16)
    runs: int = 3
    threads: int | None = None


@dataclass(frozen=True)
class Step:
    """Some requests that begin together.

    Attributes:
        name: Of the measure; empty for one that only warms up.
        prompts: Token ids of each request.
        max_tokens: Tokens that each generates, all of them.
        batched: Whether the program is to take them as a batch, even one alone.
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    batched: bool = False


@dataclass(frozen=True)
class StepTimes:
    """What a step took.

    Attributes:
        name: As in the step.
        prompt_tokens: Of all its prompts.
        first: Seconds from its begin to the first token of any request.
        decoded: Tokens that came after the first of their request.
        decode: Seconds from the first token of any request to the last of all.
    """

    name: str
    prompt_tokens: int
    first: float
    decoded: int
    decode: float


@dataclass(frozen=True)
class RunTimes:
    """What a run took.

    Attributes:
        start: Seconds from the process's begin, Python and imports included, to the loaded model.
        load: Seconds of loading alone.
        steps: What each step took.
        resident_peak: Most bytes of resident memory of the process.
        mlx_peak: Most bytes that MLX held at a time; 0 for programs without MLX.
        facts: About the program, for people.
        model: About the model, where the program says it.
    """

    start: float
    load: float
    steps: tuple[StepTimes, ...]
    resident_peak: int
    mlx_peak: int
    facts: Mapping[str, str]
    model: Mapping[str, Any]


def make_steps(
    options: BenchOptions, vocabulary_size: int, warm_up: bool, salt: int = 0
) -> tuple[Step, ...]:
    """The steps of a run; no two prompts begin alike, so that no cache has one already.

    Args:
        options: What is measured.
        vocabulary_size: Prompts are of ids below it.
        warm_up: Whether each step is taken once before it counts, for kernels that are compiled
            when a shape first comes.
        salt: Another number gives other prompts.
    """
    draw = random.Random(_SEED + salt)

    def prompts(count: int, length: int) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(draw.randrange(vocabulary_size) for _ in range(length)) for _ in range(count)
        )

    def counted(name: str, count: int, length: int, tokens: int, batched: bool) -> list[Step]:
        names = ["", name] if warm_up else [name]
        return [Step(each, prompts(count, length), tokens, batched) for each in names]

    steps = [Step("first_token", prompts(1, _SHORT_PROMPT), _FIRST_TOKENS)]
    for length in options.prompt_tokens:
        steps += counted(f"prefill_{length}", 1, length, 1, batched=False)
    steps += counted("decode", 1, _SHORT_PROMPT, options.decode_tokens, batched=False)
    for count in options.batches:
        name = f"batch_decode_{count}"
        steps += counted(name, count, _SHORT_PROMPT, options.decode_tokens, batched=True)
    return tuple(steps)


def shortened(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """As few tokens as show the speed of a program that is slow at any length, and no batches."""
    alone = [step for step in steps if not step.batched]
    first_prefill = next((step.name for step in alone if step.name.startswith("prefill")), "")
    return tuple(
        replace(
            step,
            prompts=tuple(prompt[:_FEW_PROMPT_TOKENS] for prompt in step.prompts),
            max_tokens=min(step.max_tokens, _FEW_DECODED),
        )
        for step in alone
        if not step.name.startswith("prefill") or step.name == first_prefill
    )


def task_as_json(model: str, dtype: str | None, steps: tuple[Step, ...]) -> str:
    """The input of a run that begins now.

    Args:
        model: Path of the model.
        dtype: What all floats of the model are cast to, "float32"; None for as they are stored.
        steps: What the run does.
    """
    return json.dumps(
        {
            "began": time.time(),
            "model": model,
            "dtype": dtype,
            "steps": [asdict(step) for step in steps],
        }
    )


def steps_from_json(entries: list[dict[str, Any]]) -> tuple[Step, ...]:
    """The steps in a run's input."""
    return tuple(
        Step(
            name=entry["name"],
            prompts=tuple(tuple(prompt) for prompt in entry["prompts"]),
            max_tokens=entry["max_tokens"],
            batched=entry["batched"],
        )
        for entry in entries
    )


def run_from_json(text: str) -> RunTimes:
    """What a run printed."""
    content = json.loads(text)
    steps = tuple(StepTimes(**entry) for entry in content.pop("steps"))
    return RunTimes(steps=steps, **content)
