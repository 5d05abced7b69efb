"""Run JANG models with MLX and serve them over gRPC.

`jang_runtime.architecture`, `jang_runtime.blas` and `jang_runtime.terminal` are public modules of
their own.
"""

# Before anything imports MLX.
import jang_runtime.blas  # noqa: F401 # pyright: ignore[reportUnusedImport]
from jang_runtime._caches import KVQuantization
from jang_runtime._client import Client
from jang_runtime._engine import Engine
from jang_runtime._errors import (
    AbortedError,
    CacheTooSmallError,
    EngineStoppedError,
    GenerationError,
    InvalidMetadataError,
    InvalidRequestError,
    JangRuntimeError,
    ListenError,
    ModelError,
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
from jang_runtime._model import ModelInfo
from jang_runtime._options import EngineOptions
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
from jang_runtime._server import serve, start_server
from jang_runtime._statistics import EngineStatistics
from jang_runtime._tickets import Ticket

__version__ = "0.1.0"

__all__ = [
    "AbortedError",
    "CacheTooSmallError",
    "ChatMessage",
    "ChatPrompt",
    "Client",
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
    "NoChatTemplateError",
    "NotServingError",
    "PromptLogprobs",
    "QueueFullError",
    "RequestIdInUseError",
    "Sampling",
    "Score",
    "ScoreRequest",
    "ServerError",
    "SlowReaderError",
    "Started",
    "Stopping",
    "TextPrompt",
    "Ticket",
    "Timings",
    "TokenLogprobs",
    "TokenPrompt",
    "UnauthenticatedError",
    "__version__",
    "serve",
    "start_server",
]
