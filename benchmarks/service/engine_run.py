"""The engine in a process of its own: `python engine_run.py MODEL`, steps as JSON lines on stdin.

For each line it takes the step and prints its times; the first line that it prints says that the
model is loaded. The engine is as `jang-runtime serve` makes it.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from jang_runtime import Engine
from jang_runtime._bench_ours import take_step
from jang_runtime._bench_task import steps_from_json
from jang_runtime.terminal import quiet_libraries


def main() -> None:
    """Take steps until the input ends."""
    quiet_libraries()
    with Engine(Path(sys.argv[1])) as engine:
        print("{}", flush=True)
        for line in sys.stdin:
            (step,) = steps_from_json([json.loads(line)])
            print(json.dumps(asdict(take_step(engine, step))), flush=True)


if __name__ == "__main__":
    main()
