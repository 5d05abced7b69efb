"""One run of a benchmark with stock mlx-lm: `python -P _bench_peer.py`, the task as input.

It imports no package of ours, so that MLX is as it comes, without another BLAS under it.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx

# Any: mlx-lm has no types.
_mlx_lm: Any = importlib.import_module("mlx_lm")
_generate: Any = importlib.import_module("mlx_lm.generate")
_mx: Any = mx
_resident_peak: Any = run_path(str(Path(__file__).with_name("_memory.py")))["resident_peak"]


def _alone(model: Any, step: dict[str, Any]) -> Iterator[int]:
    """A token number for each token of a request, as it comes, from generate_step."""
    (prompt,) = step["prompts"]
    for _ in _generate.generate_step(mx.array(prompt), model, max_tokens=step["max_tokens"]):
        yield 0


def _together(model: Any, step: dict[str, Any]) -> Iterator[int]:
    """The number of the request for each token as it comes, from a BatchGenerator."""
    generator = _generate.BatchGenerator(model, max_tokens=step["max_tokens"])
    generator.insert(step["prompts"])
    while responses := generator.next_generated():
        for response in responses:
            yield response.uid
    generator.close()


def _take_step(model: Any, step: dict[str, Any]) -> dict[str, Any]:
    begun = time.monotonic()
    requests: set[int] = set()
    first = last = begun
    decoded = 0
    for request in (_together if step["batched"] else _alone)(model, step):
        last = time.monotonic()
        first = first if requests else last
        decoded += request in requests
        requests.add(request)
    return {
        "name": step["name"],
        "prompt_tokens": sum(len(prompt) for prompt in step["prompts"]),
        "first": first - begun,
        "decoded": decoded,
        "decode": last - first,
    }


def main() -> None:
    """Read a task, run it, print what it took."""
    task = json.load(sys.stdin)
    begun = time.monotonic()
    model, _ = _mlx_lm.load(task["model"])
    if task["dtype"] is not None:
        model.set_dtype(getattr(mx, task["dtype"]))
        _mx.eval(model.parameters())
    load = time.monotonic() - begun
    start = time.time() - task["began"]
    steps = [_take_step(model, step) for step in task["steps"]]
    result: dict[str, Any] = {
        "start": start,
        "load": load,
        "steps": steps,
        "resident_peak": _resident_peak(),
        "mlx_peak": mx.get_peak_memory(),
        "facts": {"version": version("mlx-lm"), "device": mx.device_info()["device_name"]},
        "model": {},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
