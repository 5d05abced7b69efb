"""Run JANG models with MLX and serve them over gRPC.

`jang_runtime.architecture`, `jang_runtime.blas`, `jang_runtime.terminal` and
`jang_runtime.testing` are public modules of their own. MLX is imported by the first use of a name
that needs it: programs that only call servers do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# Before anything imports MLX.
import jang_runtime.blas  # noqa: F401 # pyright: ignore[reportUnusedImport]
from jang_runtime._async_client import AsyncClient
from jang_runtime._client import Client
from jang_runtime._connections import CallOptions, ClientOptions
from jang_runtime._errors import (
    AbortedError,
    CacheTooSmallError,
    ClientOptionError,
    EngineStoppedError,
    GenerationError,
    InterruptedInThreadError,
    InvalidMetadataError,
    InvalidRequestError,
    JangRuntimeError,
    ListenError,
    ModelError,
    ModelNotFoundError,
    NoChatTemplateError,
    NotServingError,
    QueueFullError,
    RequestIdInUseError,
    ServerError,
    SlowReaderError,
    UnauthenticatedError,
)
from jang_runtime._events import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    Logits,
    PromptLogprobs,
    Score,
    Started,
    Timings,
    TokenLogprobs,
)
from jang_runtime._requests import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    LogitsRequest,
    Logprobs,
    Sampling,
    ScoreRequest,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from jang_runtime._retries import RetryPolicy
from jang_runtime._statistics import EngineStatistics
from jang_runtime._tickets import Ticket

if TYPE_CHECKING:
    from jang_runtime._caches import KVQuantization
    from jang_runtime._engine import Engine
    from jang_runtime._model import ModelInfo
    from jang_runtime._options import EngineOptions
    from jang_runtime._service.lifecycle import serve
    from jang_runtime._service.options import ServiceOptions
    from jang_runtime._service.server import Server, start_server
    from jang_runtime._service.transport import TlsFiles

__version__ = "0.1.0"

__all__ = [
    "AbortedError",
    "AsyncClient",
    "CacheTooSmallError",
    "CallOptions",
    "ChatMessage",
    "ChatPrompt",
    "Client",
    "ClientOptionError",
    "ClientOptions",
    "Delta",
    "Engine",
    "EngineOptions",
    "EngineStatistics",
    "EngineStoppedError",
    "Event",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerationError",
    "GenerationRequest",
    "InterruptedInThreadError",
    "InvalidMetadataError",
    "InvalidRequestError",
    "JangRuntimeError",
    "KVQuantization",
    "ListenError",
    "Logits",
    "LogitsRequest",
    "Logprobs",
    "ModelError",
    "ModelInfo",
    "ModelNotFoundError",
    "NoChatTemplateError",
    "NotServingError",
    "PromptLogprobs",
    "QueueFullError",
    "RequestIdInUseError",
    "RetryPolicy",
    "Sampling",
    "Score",
    "ScoreRequest",
    "Server",
    "ServerError",
    "ServiceOptions",
    "SlowReaderError",
    "Started",
    "Stopping",
    "TextPrompt",
    "Ticket",
    "Timings",
    "TlsFiles",
    "TokenLogprobs",
    "TokenPrompt",
    "UnauthenticatedError",
    "__version__",
    "serve",
    "start_server",
]

# The names that need MLX, and where they are.
_WITH_MLX = {
    "Engine": "_engine",
    "EngineOptions": "_options",
    "KVQuantization": "_caches",
    "ModelInfo": "_model",
    "Server": "_service.server",
    "ServiceOptions": "_service.options",
    "TlsFiles": "_service.transport",
    "serve": "_service.lifecycle",
    "start_server": "_service.server",
}


def __getattr__(name: str) -> object:
    """Import what needs MLX when it is first asked for (PEP 562)."""
    if name not in _WITH_MLX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WITH_MLX[name]}"), name)
    globals()[name] = value
    return value
