"""The engine in a process of its own: `python -m service.engine_run MODEL`, work as JSON lines.

For each line of its input, with `token_ids` and `max_tokens`, it runs the requests together and
prints what their listeners saw; the first line that it prints says that the model is loaded. The
engine is as `jang-runtime serve` makes it.
"""

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jang_runtime import Engine
from jang_runtime._events import Delta, Event, Failed, Finished
from jang_runtime._requests import GenerationRequest, Stopping, TokenPrompt
from jang_runtime.terminal import quiet_libraries
from service.watching import Stream


def run(engine: Engine, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[Stream]:
    """Submit all requests and wait for their ends.

    Raises:
        JangRuntimeError: If one fails.
    """
    begun = time.monotonic()
    stopping = Stopping(max_tokens=max_tokens, ignore_eos=True)
    streams = [Stream() for _ in prompts]
    ends = [threading.Event() for _ in prompts]
    failures: list[Failed] = []

    def submit(prompt: Sequence[int], stream: Stream, ended: threading.Event) -> None:
        def listener(event: Event) -> None:
            now = time.monotonic() - begun
            match event:
                case Delta() if event.token_ids:
                    stream.note(now, len(event.token_ids))
                case Finished():
                    stream.end = now
                    ended.set()
                case Failed():
                    failures.append(event)
                    ended.set()
                case _:
                    pass

        engine.submit(GenerationRequest(TokenPrompt(tuple(prompt)), stopping=stopping), listener)

    for prompt, stream, ended in zip(prompts, streams, ends, strict=True):
        submit(prompt, stream, ended)
    for ended in ends:
        ended.wait()
    for failure in failures:
        raise failure.error
    return streams


def main() -> None:
    """Take work until the input ends."""
    quiet_libraries()
    with Engine(Path(sys.argv[1])) as engine:
        print("{}", flush=True)
        for line in sys.stdin:
            work = json.loads(line)
            streams = run(engine, work["token_ids"], work["max_tokens"])
            print(json.dumps([asdict(stream) for stream in streams]), flush=True)


if __name__ == "__main__":
    main()
