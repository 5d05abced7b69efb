"""What is measured: the engine in process, gRPC to our server, HTTP to mlx_lm.server.

Each takes a step, some requests that begin together, and says what it took as its caller saw it.
"""

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import AsyncClient
from jang_runtime._bench_task import Step, StepTimes

Take = Callable[["Work"], StepTimes]
_ENGINE_RUN: Final = Path(__file__).with_name("engine_run.py")


@dataclass(frozen=True)
class Work:
    """Requests that begin together.

    Attributes:
        texts: Their prompts.
        token_ids: The same as tokens.
        max_tokens: That each generates, all of them.
        eos: The model's end-of-text tokens, which are not to end anything.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    max_tokens: int
    eos: tuple[int, ...]


@dataclass
class _Seen:
    """When a caller saw what of one request."""

    first: float = 0.0
    last: float = 0.0
    tokens: int = 0


@contextmanager
def engine_in_process(model: Path) -> Generator[Take]:
    """The engine without a service, in a process of its own that waits for steps."""
    command = [sys.executable, str(_ENGINE_RUN), str(model)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        given, printed = process.stdin, process.stdout
        assert given is not None
        assert printed is not None

        def take(work: Work) -> StepTimes:
            given.write(json.dumps(asdict(Step("", work.token_ids, work.max_tokens))) + "\n")
            given.flush()
            return StepTimes(**json.loads(printed.readline()))

        printed.readline()
        yield take
        given.close()


@contextmanager
def over_grpc(address: str) -> Generator[Take]:
    """Our asynchronous client."""

    async def stream(client: AsyncClient, ids: Sequence[int], work: Work) -> _Seen:
        seen = _Seen()
        stopping = pb.Stopping(max_tokens=work.max_tokens, ignore_eos=True)
        async with aclosing(client.stream(list(ids), stopping=stopping)) as events:
            async for event in events:
                if not seen.first and event.HasField("delta"):
                    seen.first = time.monotonic()
                if event.HasField("finished"):
                    seen.last = time.monotonic()
                    seen.tokens = event.finished.usage.completion_tokens
        return seen

    async def all_streams(client: AsyncClient, work: Work) -> list[_Seen]:
        return await asyncio.gather(*(stream(client, ids, work) for ids in work.token_ids))

    with asyncio.Runner() as runner:

        async def connect() -> AsyncClient:
            client = AsyncClient(address)
            await client.wait_until_ready()
            return client

        client = runner.run(connect())

        def take(work: Work) -> StepTimes:
            begun = time.monotonic()
            return _times(work, begun, runner.run(all_streams(client, work)))

        yield take
        runner.run(client.close())


def over_http(url: str, model: str) -> Take:
    """Streams of mlx_lm.server's completions, a thread and a connection each.

    Args:
        url: Of the server.
        model: The name by which it knows its model.
    """
    host = urlsplit(url).netloc

    def stream(text: str, work: Work, seen: _Seen) -> None:
        body = {
            "model": model,
            "prompt": text,
            "max_tokens": work.max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            # It has no other way to go on past the end.
            "logit_bias": {str(token): -1e4 for token in work.eos},
        }
        connection = http.client.HTTPConnection(host)
        connection.request("POST", "/v1/completions", json.dumps(body))
        with connection.getresponse() as response:
            for line in response:
                if line.startswith(b"data: {"):
                    _note(json.loads(line[len(b"data: ") :]), seen)
        connection.close()

    def take(work: Work) -> StepTimes:
        seen = [_Seen() for _ in work.texts]
        threads = [
            threading.Thread(target=stream, args=(text, work, each))
            for text, each in zip(work.texts, seen, strict=True)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _times(work, begun, seen)

    return take


def _note(chunk: dict[str, Any], seen: _Seen) -> None:
    if chunk["choices"]:
        seen.last = time.monotonic()
        seen.first = seen.first or seen.last
    else:
        seen.tokens = chunk["usage"]["completion_tokens"]


def _times(work: Work, begun: float, seen: Sequence[_Seen]) -> StepTimes:
    """What a step took.

    Raises:
        SystemExit: If a request generated another number of tokens than it had to.
    """
    if any(each.tokens != work.max_tokens for each in seen):
        found = sorted({each.tokens for each in seen})
        raise SystemExit(f"error: {found} tokens generated, expected {work.max_tokens} each")
    first = min(each.first for each in seen)
    last = max(each.last for each in seen)
    return StepTimes(
        name="",
        prompt_tokens=sum(map(len, work.token_ids)),
        first=first - begun,
        decoded=sum(each.tokens - 1 for each in seen),
        decode=last - first,
    )


def fewer(work: Work, streams: int, max_tokens: int) -> Work:
    """The first requests of some, with another number of tokens."""
    return replace(
        work,
        texts=work.texts[:streams],
        token_ids=work.token_ids[:streams],
        max_tokens=max_tokens,
    )
