"""One run of a benchmark with llama.cpp: `python llama_cpp_run.py THREADS`, the task as input.

For the environment that has llama-cpp-python, so nothing of this repository is imported; the task
and what is printed are those of jang_runtime._bench_task. Steps in batches are left out: the
package has them for one sequence only.
"""

import ctypes
import importlib
import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np

_MEMORY = Path(__file__).parents[2] / "packages/jang-runtime/src/jang_runtime/_memory.py"
_resident_peak: Any = run_path(str(_MEMORY))["resident_peak"]
_llama: Any = importlib.import_module("llama_cpp")


def _tokens(model: Any, prompt: list[int], count: int) -> Iterator[int]:
    """The most likely tokens after a prompt, each as it comes."""
    model.reset()
    given = prompt
    for _ in range(count):
        model.eval(given)
        row: Any = ctypes.cast(
            _llama.llama_get_logits_ith(model.ctx, -1), ctypes.POINTER(ctypes.c_float)
        )
        given = [int(np.argmax(np.ctypeslib.as_array(row, (model.n_vocab(),))))]
        yield given[0]


def _take_step(model: Any, step: dict[str, Any]) -> dict[str, Any]:
    (prompt,) = step["prompts"]
    begun = time.monotonic()
    times = [time.monotonic() for _ in _tokens(model, prompt, step["max_tokens"])]
    return {
        "name": step["name"],
        "prompt_tokens": len(prompt),
        "first": times[0] - begun,
        "decoded": len(times) - 1,
        "decode": times[-1] - times[0],
    }


def main() -> None:
    """Read a task, run it, print what it took."""
    task, threads = json.load(sys.stdin), int(sys.argv[1])
    steps = [step for step in task["steps"] if not step["batched"]]
    longest = max(len(prompt) + step["max_tokens"] for step in steps for prompt in step["prompts"])
    begun = time.monotonic()
    model = _llama.Llama(
        task["model"], n_ctx=longest, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    load = time.monotonic() - begun
    start = time.time() - task["began"]
    taken = [_take_step(model, step) for step in steps]
    result: dict[str, Any] = {
        "start": start,
        "load": load,
        "steps": taken,
        "resident_peak": _resident_peak(),
        "mlx_peak": 0,
        "facts": {"version": version("llama-cpp-python")},
        "model": {},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
