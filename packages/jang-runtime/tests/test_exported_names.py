"""The public names of jang_runtime: a change here is a change for users."""

import jang_runtime


def test_the_public_names_are_these_and_all_exist() -> None:
    assert sorted(jang_runtime.__all__) == NAMES
    for name in jang_runtime.__all__:
        assert getattr(jang_runtime, name) is not None


NAMES = [
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
