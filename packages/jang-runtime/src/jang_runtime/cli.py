"""The command `jang-runtime`."""

import asyncio
import json
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from jang_format.terminal import count_progress, plain_console, print_json, user_errors
from jang_runtime._backend import Backend
from jang_runtime._bench import bench, ours, stock_mlx_lm
from jang_runtime._bench_report import table
from jang_runtime._bench_task import BenchOptions
from jang_runtime._caches import KVQuantization
from jang_runtime._command_options import (
    FrequencyOption,
    KVBitsOption,
    KVStartOption,
    LogprobsOption,
    MaxTokensOption,
    MinPOption,
    ModelArgument,
    PresenceOption,
    RepetitionOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    kv_quantization,
)
from jang_runtime._engine import Engine
from jang_runtime._errors import InvalidRequestError, JangRuntimeError, ListenError
from jang_runtime._native import cpu_kernels_description
from jang_runtime._options import EngineOptions
from jang_runtime._requests import GenerationRequest, Logprobs, Sampling, Stopping
from jang_runtime._server import is_loopback
from jang_runtime._server import serve as serve_engine
from jang_runtime.terminal import (
    answer_as_json,
    chat,
    describe_speed,
    prompt_for,
    quiet_libraries,
    write_answer,
)

app = typer.Typer(
    help="Run JANG models and serve them over gRPC.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Opponent = Literal["mlx-lm"]


def refuse_missing(path: Path) -> None:
    """Refuse a MODEL that is no directory.

    Raises:
        InvalidRequestError: If so.
    """
    if not path.is_dir():
        raise InvalidRequestError(
            "MODEL", repr(str(path)), "a model directory; `jang-quant convert` makes one"
        )


@contextmanager
def open_engine(path: Path, options: EngineOptions | None = None) -> Generator[Engine]:
    """Load a model, saying so on stderr."""
    refuse_missing(path)
    quiet_libraries()
    with Engine(path, options=options) as engine:
        info = engine.info
        typer.echo(
            f"{info.name}: {info.architecture}, {info.profile or 'no profile'}, "
            f"{info.bits_per_weight:.2f} bits per weight, {info.weight_bytes / 1e6:.0f} MB, "
            f"{_computes_on(info.backend)}",
            err=True,
        )
        yield engine


def _computes_on(backend: Backend) -> str:
    return f"{backend} ({cpu_kernels_description()})" if backend == "cpu" else backend


@app.command(epilog='Example: jang-runtime generate ./smollm2-4M "What is 2+2?"')
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="The question.")],
    max_tokens: MaxTokensOption = None,
    stop: StopOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    seed: SeedOption = None,
    repetition_penalty: RepetitionOption = 1.0,
    presence_penalty: PresenceOption = 0.0,
    frequency_penalty: FrequencyOption = 0.0,
    logprobs: LogprobsOption = None,
    kv_bits: KVBitsOption = None,
    kv_start: KVStartOption = KVQuantization.start,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Answer one question."""
    options = EngineOptions(kv_quantization=kv_quantization(kv_bits, kv_start))
    with user_errors(JangRuntimeError), open_engine(model, options) as engine:
        if logprobs is not None and not as_json:
            raise InvalidRequestError("--logprobs", logprobs, "--json beside it")
        request = GenerationRequest(
            prompt=prompt_for(engine, prompt),
            sampling=Sampling(
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                seed=seed,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
            ),
            stopping=Stopping(max_tokens=max_tokens, stop_strings=tuple(stop or ())),
            logprobs=Logprobs(output=logprobs),
        )
        answer = write_answer(engine, request, sys.stderr if as_json else sys.stdout)
        if as_json:
            typer.echo(json.dumps(answer_as_json(answer), ensure_ascii=False, indent=2))
        typer.echo(describe_speed(answer.finished), err=True)


@app.command("chat", epilog="Example: jang-runtime chat ./smollm2-4M")
def chat_command(
    model: ModelArgument,
    max_tokens: MaxTokensOption = None,
    stop: StopOption = None,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.95,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    seed: SeedOption = None,
    repetition_penalty: RepetitionOption = 1.0,
    presence_penalty: PresenceOption = 0.0,
    frequency_penalty: FrequencyOption = 0.0,
    kv_bits: KVBitsOption = None,
    kv_start: KVStartOption = KVQuantization.start,
) -> None:
    """Talk with a model."""
    options = EngineOptions(kv_quantization=kv_quantization(kv_bits, kv_start))
    with user_errors(JangRuntimeError), open_engine(model, options) as engine:
        chat(
            engine,
            Sampling(
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                seed=seed,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
            ),
            Stopping(max_tokens=max_tokens, stop_strings=tuple(stop or ())),
        )


@app.command(epilog="Example: jang-runtime serve ./smollm2-4M --listen 127.0.0.1:50051")
def serve(
    model: ModelArgument,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:50051",
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine, without TLS or passwords."),
    ] = False,
    max_active: Annotated[
        int, typer.Option("--max-active", help="Most requests under way; the others wait.")
    ] = EngineOptions.max_active,
    prefix_cache: Annotated[
        int,
        typer.Option(
            "--prefix-cache",
            metavar="MB",
            help="Memory for beginnings of prompts that come again; 0 turns it off.",
        ),
    ] = EngineOptions.prefix_cache_bytes // 10**6,
    kv_bits: KVBitsOption = None,
    kv_start: KVStartOption = KVQuantization.start,
) -> None:
    """Serve a model over gRPC (jang.runtime.v1) until Ctrl-C or SIGTERM.

    When the server answers, one line on stdout says so: `listening on HOST:PORT`.
    """
    with user_errors(JangRuntimeError):
        if not is_loopback(listen) and not insecure:
            raise ListenError(
                f"--listen: found {listen!r}, expected a loopback address such as "
                "127.0.0.1:50051; --insecure allows others"
            )
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        options = EngineOptions(
            max_active, prefix_cache * 10**6, kv_quantization(kv_bits, kv_start)
        )
        with open_engine(model, options) as engine:
            asyncio.run(serve_engine(engine, listen, _announce))


@app.command("bench", epilog="Example: jang-runtime bench ./smollm2-4M --against mlx-lm")
def bench_command(
    model: ModelArgument,
    prompt_tokens: Annotated[
        str, typer.Option("--prompt-tokens", help="Lengths of the prompts to process.")
    ] = "128,512",
    decode_tokens: Annotated[
        int, typer.Option("--decode-tokens", min=2, help="Tokens that each request generates.")
    ] = 64,
    batch: Annotated[
        str, typer.Option("--batch", help="How many requests to decode at a time.")
    ] = "1,4,16",
    runs: Annotated[int, typer.Option("--runs", min=1, help="Processes of each program.")] = 3,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Of each program, on the CPU.")
    ] = None,
    against: Annotated[
        Opponent | None, typer.Option("--against", help="Measure this program too, in turn.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure load time, speed and memory of a model."""
    with user_errors(JangRuntimeError):
        refuse_missing(model)
        options = BenchOptions(
            prompt_tokens=numbers("--prompt-tokens", prompt_tokens),
            decode_tokens=decode_tokens,
            batches=numbers("--batch", batch),
            runs=runs,
            threads=threads,
        )
        contenders = [ours(model), *(stock_mlx_lm(model) if against == "mlx-lm" else [])]
        with count_progress("runs") as show:
            record = bench(model, contenders, options, show)
        if as_json:
            print_json(record.as_json())
        else:
            plain_console().print(table(record))


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Positive numbers with commas between them.

    Raises:
        InvalidRequestError: If it is something else.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InvalidRequestError(option, repr(text), "positive numbers such as 128,512")
    return tuple(int(part) for part in parts)


def _announce(address: str) -> None:
    typer.echo(f"listening on {address}")
    sys.stdout.flush()


if __name__ == "__main__":
    app()
