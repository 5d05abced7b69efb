"""The command `jang-runtime`."""

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from jang_format.terminal import count_progress, plain_console, print_json, user_errors
from jang_runtime._backend import describe_backend
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
    TimeLimitOption,
    TopKOption,
    TopPOption,
    kv_quantization,
)
from jang_runtime._engine import Engine
from jang_runtime._errors import (
    AnotherRankError,
    EngineStoppedError,
    InterruptedInThreadError,
    InvalidRequestError,
    JangRuntimeError,
)
from jang_runtime._memory import resident
from jang_runtime._options import EngineOptions
from jang_runtime._ranks.follower import follow
from jang_runtime._ranks.group import connect, launched_rank
from jang_runtime._requests import GenerationRequest, Logprobs, Sampling, Stopping
from jang_runtime._service.command_options import (
    AuthTokensOption,
    CacheMemoryOption,
    DeltaSecondsOption,
    DrainSecondsOption,
    InsecureOption,
    ListenOption,
    LogFormatOption,
    LogPromptsOption,
    MaxActiveOption,
    MaxMessageOption,
    MaxPromptTokensOption,
    MaxQueueOption,
    MaxTokensLimitOption,
    MetricsOption,
    PrefixCacheOption,
    ShardingOption,
    ThreadsOption,
    TlsCertOption,
    TlsClientCaOption,
    TlsKeyOption,
)
from jang_runtime._service.lifecycle import serve as serve_engine
from jang_runtime._service.logs import logging_to
from jang_runtime._service.options import ServiceOptions
from jang_runtime._service.transport import tls_files
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


def use_threads(count: int | None) -> None:
    """Set the number of the kernels' threads; they read it when the first model is loaded."""
    if count is not None:
        os.environ["JANG_THREADS"] = str(count)


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
            f"{describe_backend(info.backend)}",
            err=True,
        )
        yield engine


@app.command(epilog='Example: jang-runtime generate ./smollm2-4M "What is 2+2?"')
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="The question.")],
    max_tokens: MaxTokensOption = None,
    stop: StopOption = None,
    time_limit_seconds: TimeLimitOption = None,
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
            stopping=Stopping(
                max_tokens=max_tokens,
                stop_strings=tuple(stop or ()),
                time_limit_seconds=time_limit_seconds,
            ),
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
    time_limit_seconds: TimeLimitOption = None,
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
            Stopping(
                max_tokens=max_tokens,
                stop_strings=tuple(stop or ()),
                time_limit_seconds=time_limit_seconds,
            ),
        )


@app.command(epilog="Example: jang-runtime serve ./smollm2-4M --listen 127.0.0.1:50051")
def serve(
    model: ModelArgument,
    listen: ListenOption = ServiceOptions.listen,
    insecure: InsecureOption = False,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    auth_tokens: AuthTokensOption = None,
    metrics: MetricsOption = None,
    log_format: LogFormatOption = "text",
    log_prompts: LogPromptsOption = False,
    max_queue: MaxQueueOption = ServiceOptions.max_queued,
    max_active: MaxActiveOption = EngineOptions.max_active,
    max_prompt_tokens: MaxPromptTokensOption = None,
    max_tokens: MaxTokensLimitOption = None,
    max_message: MaxMessageOption = ServiceOptions.max_message_bytes // 10**6,
    cache_memory: CacheMemoryOption = None,
    prefix_cache: PrefixCacheOption = EngineOptions.prefix_cache_bytes // 10**6,
    delta_seconds: DeltaSecondsOption = ServiceOptions.delta_seconds,
    drain_seconds: DrainSecondsOption = ServiceOptions.drain_seconds,
    sharding: ShardingOption = EngineOptions.sharding,
    threads: ThreadsOption = None,
    kv_bits: KVBitsOption = None,
    kv_start: KVStartOption = KVQuantization.start,
) -> None:
    """Serve a model over gRPC (jang.runtime.v1) until Ctrl-C or SIGTERM.

    When the server answers, one line on stdout says so: `listening on HOST:PORT`, and what it
    serves. A signal lets requests under way end, a second one does not.
    """
    with user_errors(JangRuntimeError), logging_to(log_format):
        refuse_missing(model)
        quiet_libraries()
        use_threads(threads)
        options = ServiceOptions(
            listen=listen,
            allow_insecure=insecure,
            tls=tls_files(tls_cert, tls_key, tls_client_ca),
            token_file=auth_tokens,
            metrics_listen=metrics,
            log_prompts=log_prompts,
            max_queued=max_queue,
            max_prompt_tokens=max_prompt_tokens,
            max_tokens=max_tokens,
            max_message_bytes=max_message * 10**6,
            delta_seconds=delta_seconds,
            drain_seconds=drain_seconds,
        )
        engine_options = EngineOptions(
            max_active=max_active,
            prefix_cache_bytes=prefix_cache * 10**6,
            kv_quantization=kv_quantization(kv_bits, kv_start),
            cache_bytes=None if cache_memory is None else cache_memory * 10**6,
            sharding=sharding,
        )
        try:
            if launched_rank():
                follow(model, engine_options, drain_seconds)
            else:
                asyncio.run(serve_engine(model, options, engine_options, _announce, connect))
        except AnotherRankError as error:
            # One of them says why.
            raise typer.Exit(2) from error
        except EngineStoppedError as error:
            # Not the user's mistake, which would be 2.
            typer.echo(f"error: {error}", err=True)
            if launched_rank() is not None:
                # MLX may wait for another rank, and the end of the process for MLX.
                sys.stderr.flush()
                os._exit(1)
            raise typer.Exit(1) from error
        except InterruptedInThreadError:
            # The end of the interpreter would wait for the thread.
            sys.stderr.flush()
            os._exit(0)


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


def _announce(address: str, engine: Engine) -> None:
    info, held = engine.info, max(resident(), engine.statistics().active_memory)
    typer.echo(
        f"listening on {address} - {info.name}: {info.architecture}, "
        f"{info.profile or 'no profile'}, {info.bits_per_weight:.2f} bits per weight, "
        f"{describe_backend(info.backend)}, {held / 1e6:.0f} MB of memory"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    app()
