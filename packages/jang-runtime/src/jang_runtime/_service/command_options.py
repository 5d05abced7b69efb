"""Options of `jang-runtime serve`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from jang_runtime._options import Sharding
from jang_runtime._service.logs import LogFormat

_SECURITY: Final = "Who may call"
_LIMITS: Final = "What requests may take"
_OPERATION: Final = "Operation"

ListenOption = Annotated[
    str,
    typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one."),
]
ShardingOption = Annotated[
    Sharding,
    typer.Option(
        "--sharding",
        help="Under mlx.launch: whether each process has a part of every matrix, or some layers.",
        rich_help_panel=_OPERATION,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, show_default="as many as processors", help="On the CPU."),
]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Listen beyond this machine without TLS or without knowing who calls.",
        rich_help_panel=_SECURITY,
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert", help="The server's certificates, in PEM form.", rich_help_panel=_SECURITY
    ),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option("--tls-key", help="Their private key.", rich_help_panel=_SECURITY),
]
TlsClientCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca",
        help="Let in only clients with a certificate signed by one of these.",
        rich_help_panel=_SECURITY,
    ),
]
AuthTokensOption = Annotated[
    Path | None,
    typer.Option(
        "--auth-tokens",
        metavar="FILE",
        help="Let in only callers with a token of this file: lines of NAME TOKEN.",
        rich_help_panel=_SECURITY,
    ),
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="HOST:PORT",
        help="Serve numbers for Prometheus over HTTP at /metrics.",
        rich_help_panel=_OPERATION,
    ),
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", help="Of the log, on stderr.", rich_help_panel=_OPERATION),
]
LogPromptsOption = Annotated[
    bool,
    typer.Option(
        "--log-prompts", help="Write the texts of prompts to the log.", rich_help_panel=_OPERATION
    ),
]
DeltaSecondsOption = Annotated[
    float,
    typer.Option(
        "--delta-seconds",
        min=0,
        max=10,
        help="Tokens that come so soon after a message wait for the next one, longer with more "
        "than 4 streams; 0 sends each by itself.",
        rich_help_panel=_OPERATION,
    ),
]
DrainSecondsOption = Annotated[
    float,
    typer.Option(
        "--drain-seconds",
        min=0,
        help="For requests under way to end after a signal.",
        rich_help_panel=_OPERATION,
    ),
]
MaxQueueOption = Annotated[
    int,
    typer.Option(
        "--max-queue", help="Requests that wait; one more is refused.", rich_help_panel=_LIMITS
    ),
]
MaxActiveOption = Annotated[
    int,
    typer.Option(
        "--max-active", help="Most requests under way; the others wait.", rich_help_panel=_LIMITS
    ),
]
MaxPromptTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-prompt-tokens",
        show_default="the model's context",
        help="Tokens of a prompt.",
        rich_help_panel=_LIMITS,
    ),
]
MaxTokensLimitOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        show_default="the model's context",
        help="Tokens of an answer.",
        rich_help_panel=_LIMITS,
    ),
]
MaxMessageOption = Annotated[
    int,
    typer.Option(
        "--max-message",
        min=1,
        max=2000,
        metavar="MB",
        help="Size of a request.",
        rich_help_panel=_LIMITS,
    ),
]
CacheMemoryOption = Annotated[
    int | None,
    typer.Option(
        "--cache-memory",
        min=1,
        metavar="MB",
        show_default="half of what is free once the model is loaded",
        help="Keys and values of requests under way; those that do not fit wait.",
        rich_help_panel=_LIMITS,
    ),
]
PrefixCacheOption = Annotated[
    int,
    typer.Option(
        "--prefix-cache",
        metavar="MB",
        help="Memory for beginnings of prompts that come again; 0 turns it off.",
        rich_help_panel=_LIMITS,
    ),
]
