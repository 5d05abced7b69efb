"""What is asked of the engine, and the checks that need no tokenizer.

Fields, defaults and ranges are those of jang/runtime/v1/runtime.proto.
"""

from dataclasses import dataclass, field
from typing import Final

from jang_runtime._errors import InvalidRequestError

DEFAULT_MAX_TOKENS: Final = 512
MAX_STOP_STRINGS: Final = 16
MAX_STOP_TOKENS: Final = 64
MAX_TEMPERATURE: Final = 100.0


@dataclass(frozen=True)
class TextPrompt:
    """Plain text; `add_special_tokens` adds marks such as a beginning of text."""

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True)
class TokenPrompt:
    """Token ids, used as they are."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation; roles are those of the model's chat template."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation, put through the model's chat template."""

    messages: tuple[ChatMessage, ...]


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token. 0 to 100.
        top_p: Samples from the fewest tokens whose probabilities add up to this. Above 0, up to 1.
        top_k: Samples from this many most likely tokens; 0 means all.
        min_p: Drops tokens less likely than this times the most likely one. 0 to 1.
        seed: Of this request's random numbers; None draws one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Stopping:
    """When the generation ends, apart from the model's end-of-text token.

    Attributes:
        max_tokens: The most tokens to generate; None means 512, or what the context leaves.
        stop_strings: Texts that end the generation and are cut off.
        stop_token_ids: Tokens that end the generation and are left out.
        ignore_eos: Whether to go on past the model's end-of-text tokens.
    """

    max_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class GenerationRequest:
    """One request for text."""

    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    stopping: Stopping = field(default_factory=Stopping)


def check_request(request: GenerationRequest, vocabulary_size: int, context_length: int) -> None:
    """Check all that can be checked without tokenizing.

    Raises:
        InvalidRequestError: Naming the first field that is out of range.
    """
    _check_sampling(request.sampling, vocabulary_size)
    _check_stopping(request.stopping, vocabulary_size, context_length)
    match request.prompt:
        case TokenPrompt(ids):
            _check_token_ids("prompt.token_ids", ids, vocabulary_size)
            if not ids:
                raise InvalidRequestError("prompt.token_ids", "no tokens", "at least one")
        case ChatPrompt(messages):
            if not messages:
                raise InvalidRequestError("prompt.chat", "no messages", "at least one")
        case TextPrompt():
            pass


def _check_sampling(sampling: Sampling, vocabulary_size: int) -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if not 0 <= sampling.temperature <= MAX_TEMPERATURE:
        raise InvalidRequestError("sampling.temperature", sampling.temperature, "0 to 100")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequestError("sampling.top_p", sampling.top_p, "above 0, up to 1")
    if not 0 <= sampling.top_k <= vocabulary_size:
        raise InvalidRequestError("sampling.top_k", sampling.top_k, f"0 to {vocabulary_size}")
    if not 0 <= sampling.min_p <= 1:
        raise InvalidRequestError("sampling.min_p", sampling.min_p, "0 to 1")


def _check_stopping(stopping: Stopping, vocabulary_size: int, context_length: int) -> None:
    if stopping.max_tokens is not None and not 1 <= stopping.max_tokens <= context_length:
        raise InvalidRequestError(
            "stopping.max_tokens", stopping.max_tokens, f"1 to {context_length}"
        )
    if len(stopping.stop_strings) > MAX_STOP_STRINGS:
        raise InvalidRequestError(
            "stopping.stop_strings", len(stopping.stop_strings), f"at most {MAX_STOP_STRINGS}"
        )
    if "" in stopping.stop_strings:
        raise InvalidRequestError("stopping.stop_strings", "an empty string", "none empty")
    if len(stopping.stop_token_ids) > MAX_STOP_TOKENS:
        raise InvalidRequestError(
            "stopping.stop_token_ids", len(stopping.stop_token_ids), f"at most {MAX_STOP_TOKENS}"
        )
    _check_token_ids("stopping.stop_token_ids", stopping.stop_token_ids, vocabulary_size)


def _check_token_ids(name: str, ids: tuple[int, ...], vocabulary_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocabulary_size:
            raise InvalidRequestError(name, token_id, f"ids from 0 to {vocabulary_size - 1}")
