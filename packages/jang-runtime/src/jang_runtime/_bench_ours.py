"""One run of a benchmark with our engine: `python -m jang_runtime._bench_ours`, the task as input.

It drives the engine as a server does, by requests and events; times are those of who asks.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx

# Loading imports it; what is measured is loading.
import mlx_lm  # noqa: F401 # pyright: ignore[reportUnusedImport]

from jang_runtime._bench_task import RunTimes, Step, StepTimes, steps_from_json
from jang_runtime._engine import Engine
from jang_runtime._errors import JangRuntimeError
from jang_runtime._events import Event, Failed, Finished
from jang_runtime._memory import resident_peak
from jang_runtime._native import cpu_kernels_description
from jang_runtime._options import EngineOptions
from jang_runtime._requests import GenerationRequest, Stopping, TokenPrompt
from jang_runtime.blas import blas_in_use
from jang_runtime.terminal import quiet_libraries


def take_step(engine: Engine, step: Step) -> StepTimes:
    """Submit all requests of a step and wait for their ends.

    Raises:
        JangRuntimeError: If one fails.
    """
    begun = time.monotonic()
    ends = [_submit(engine, prompt, step.max_tokens) for prompt in step.prompts]
    finished = [_end(events) for events in ends]
    first = min(at - begun - event.timings.decode for at, event in finished)
    last = max(at for at, _ in finished) - begun
    return StepTimes(
        name=step.name,
        prompt_tokens=sum(event.prompt_tokens for _, event in finished),
        first=first,
        decoded=sum(event.completion_tokens - 1 for _, event in finished),
        decode=last - first,
    )


def _submit(
    engine: Engine, prompt: tuple[int, ...], max_tokens: int
) -> SimpleQueue[tuple[float, Event]]:
    events: SimpleQueue[tuple[float, Event]] = SimpleQueue()

    def listener(event: Event) -> None:
        if isinstance(event, Finished | Failed):
            events.put((time.monotonic(), event))

    stopping = Stopping(max_tokens=max_tokens, ignore_eos=True)
    engine.submit(GenerationRequest(TokenPrompt(prompt), stopping=stopping), listener)
    return events


def _end(events: SimpleQueue[tuple[float, Event]]) -> tuple[float, Finished]:
    at, event = events.get()
    if isinstance(event, Failed):
        raise event.error
    assert isinstance(event, Finished)
    return at, event


def run(task: dict[str, Any]) -> RunTimes:
    """Load the task's model and take its steps.

    Raises:
        JangRuntimeError: If the model or a request is refused.
    """
    begun = time.monotonic()
    # What one step leaves must not help the next.
    options = EngineOptions(prefix_cache_bytes=0)
    with Engine(Path(task["model"]), options=options) as engine:
        load = time.monotonic() - begun
        start = time.time() - task["began"]
        steps = tuple(take_step(engine, step) for step in steps_from_json(task["steps"]))
        info = engine.info
    on_cpu = info.backend == "cpu"
    facts = {"backend": info.backend, "device": str(mx.device_info()["device_name"])}
    if on_cpu:
        facts |= {"BLAS": blas_in_use(), "CPU kernels": cpu_kernels_description()}
    model = {
        "name": info.name,
        "architecture": info.architecture,
        "profile": info.profile,
        "bits_per_weight": info.bits_per_weight,
        "weight_bytes": info.weight_bytes,
    }
    return RunTimes(start, load, steps, resident_peak(), mx.get_peak_memory(), facts, model)


def main() -> None:
    """Read a task, run it, print what it took."""
    quiet_libraries()
    try:
        times = run(json.load(sys.stdin))
    except JangRuntimeError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(asdict(times)))


if __name__ == "__main__":
    main()
