"""What is measured: the engine in process, gRPC to our server, HTTP to mlx_lm.server.

Each runs some requests that begin together and says how fast they were as their caller saw it.
"""

import asyncio
import http.client
import json
import os
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
from service.watching import Speeds, Stream, speeds

Take = Callable[["Work"], Speeds]
_BENCHMARKS: Final = Path(__file__).resolve().parent.parent


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


@contextmanager
def engine_in_process(model: Path) -> Generator[Take]:
    """The engine without a service, in a process of its own that waits for steps."""
    command = [sys.executable, "-m", "service.engine_run", str(model)]
    where = os.environ | {"PYTHONPATH": str(_BENCHMARKS)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=where
    ) as process:
        given, printed = process.stdin, process.stdout
        assert given is not None
        assert printed is not None

        def take(work: Work) -> Speeds:
            given.write(json.dumps(asdict(work)) + "\n")
            given.flush()
            seen = [Stream(**stream) for stream in json.loads(printed.readline())]
            return speeds(seen, work.max_tokens)

        printed.readline()
        yield take
        given.close()


@contextmanager
def over_grpc(address: str) -> Generator[Take]:
    """Our asynchronous client."""

    async def stream(client: AsyncClient, ids: Sequence[int], work: Work, begun: float) -> Stream:
        seen = Stream()
        stopping = pb.Stopping(max_tokens=work.max_tokens, ignore_eos=True)
        async with aclosing(client.stream(list(ids), stopping=stopping)) as events:
            async for event in events:
                if event.delta.token_ids:
                    seen.note(time.monotonic() - begun, len(event.delta.token_ids))
        seen.end = time.monotonic() - begun
        return seen

    async def all_streams(client: AsyncClient, work: Work) -> list[Stream]:
        begun = time.monotonic()
        return await asyncio.gather(*(stream(client, ids, work, begun) for ids in work.token_ids))

    with asyncio.Runner() as runner:

        async def connect() -> AsyncClient:
            client = AsyncClient(address)
            await client.wait_until_ready()
            return client

        client = runner.run(connect())

        def take(work: Work) -> Speeds:
            return speeds(runner.run(all_streams(client, work)), work.max_tokens)

        yield take
        runner.run(client.close())


def over_http(url: str, model: str) -> Take:
    """Streams of mlx_lm.server's completions, a thread and a connection each.

    Args:
        url: Of the server.
        model: The name by which it knows its model.
    """
    host = urlsplit(url).netloc

    def stream(text: str, work: Work, seen: Stream, begun: float) -> None:
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
                    _note(json.loads(line[len(b"data: ") :]), seen, time.monotonic() - begun)
        connection.close()
        seen.end = time.monotonic() - begun

    def take(work: Work) -> Speeds:
        seen = [Stream() for _ in work.texts]
        begun = time.monotonic()
        threads = [
            threading.Thread(target=stream, args=(text, work, each, begun))
            for text, each in zip(work.texts, seen, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return speeds(seen, work.max_tokens)

    return take


def _note(chunk: dict[str, Any], seen: Stream, now: float) -> None:
    """Take a chunk: of text, which is about a token, or of how many tokens it were."""
    if chunk["choices"]:
        seen.note(now, 1)
    else:
        seen.tokens[-1] = chunk["usage"]["completion_tokens"]


def fewer(work: Work, streams: int, max_tokens: int) -> Work:
    """The first requests of some, with another number of tokens."""
    return replace(
        work,
        texts=work.texts[:streams],
        token_ids=work.token_ids[:streams],
        max_tokens=max_tokens,
    )
