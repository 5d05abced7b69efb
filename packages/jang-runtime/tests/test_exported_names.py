"""The public names of jang_runtime: a change here is a change for users."""

import jang_runtime


def test_the_public_names_are_these_and_all_exist() -> None:
    assert sorted(jang_runtime.__all__) == NAMES
    for name in jang_runtime.__all__:
        assert getattr(jang_runtime, name) is not None


NAMES = [
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
    "InvalidRequestError",
    "JangRuntimeError",
    "KVQuantization",
    "ListenError",
    "Logits",
    "LogitsRequest",
    "Logprobs",
    "ModelError",
    "ModelInfo",
    "PromptLogprobs",
    "Sampling",
    "Score",
    "ScoreRequest",
    "ServerError",
    "Started",
    "Stopping",
    "TextPrompt",
    "Ticket",
    "Timings",
    "TokenLogprobs",
    "TokenPrompt",
    "__version__",
    "serve",
    "start_server",
]
