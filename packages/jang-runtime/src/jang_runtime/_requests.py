"""What is asked of the engine, and the checks that need no tokenizer.

Fields, defaults and ranges are those of jang/runtime/v1/runtime.proto, where it has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from jang_runtime._errors import InvalidRequestError

DEFAULT_MAX_TOKENS: Final = 512
MAX_ROLE_CHARACTERS: Final = 64
MAX_STOP_STRINGS: Final = 16
MAX_STOP_STRING_CHARACTERS: Final = 1024
MAX_STOP_TOKENS: Final = 64
# Of a time that threads can wait.
MAX_TIME_LIMIT_SECONDS: Final = 1e6
MAX_TEMPERATURE: Final = 100.0
MAX_TOP_LOGPROBS: Final = 20
MAX_LOGIT_BIASES: Final = 1024
MAX_BIAS: Final = 1e4
MAX_PENALTY: Final = 100.0
MAX_CONTINUATIONS: Final = 1024
# Of all continuations of a request together: a thousand of a thousand.
MAX_CONTINUATION_TOKENS: Final = 2**20
_SEEDS: Final = 2**64


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
    """One turn of a conversation; roles are those of the model's chat template, and short."""

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
        seed: Of this request's random numbers; None draws one. Below 2**64.
        logit_bias: Added to the logits of these tokens, before all else. -1e4 to 1e4.
        repetition_penalty: Divides positive and multiplies negative logits of tokens in prompt
            and output. Above 0, up to 100; 1 changes nothing.
        presence_penalty: Subtracted once from the logits of tokens in the output. -100 to 100.
        frequency_penalty: Subtracted as often as a token is in the output. -100 to 100.
        penalty_window: The three penalties look at this many last tokens; 0 means all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 0


@dataclass(frozen=True)
class Stopping:
    """When the generation ends, apart from the model's end-of-text token.

    Attributes:
        max_tokens: The most tokens to generate; None means 512, or what the context leaves.
        stop_strings: Texts that end the generation and are cut off; at most 16, each of 1 to 1024
            characters.
        stop_token_ids: Tokens that end the generation and are left out.
        ignore_eos: Whether to go on past the model's end-of-text tokens.
        time_limit_seconds: After so long since the request's arrival the generation ends with
            what it has; None for no limit. Above 0, up to 1e6.
    """

    max_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    time_limit_seconds: float | None = None


@dataclass(frozen=True)
class Logprobs:
    """Which log-probabilities come with the text.

    They are natural logarithms of the model's own distribution: before bias, penalties,
    temperature and restrictions.

    Attributes:
        output: For each token of the answer, its own and those of this many most likely tokens;
            None for none. 0 to 20.
        prompt: The same for each token of the prompt but the first; what a prefix cache knows of
            it is computed again.
    """

    output: int | None = None
    prompt: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One request for text."""

    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    stopping: Stopping = field(default_factory=Stopping)
    logprobs: Logprobs = field(default_factory=Logprobs)


@dataclass(frozen=True)
class ScoreRequest:
    """One request for the log-likelihood of texts that could follow a context.

    Attributes:
        context: What comes before; at least one token.
        continuations: 1 to 1024, each a text or token ids, of at least one token. A text after a
            text is tokenized as the end of both together, spaces before it counted to it. A
            server takes 2**20 tokens of them together.
    """

    context: Prompt
    continuations: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True)
class LogitsRequest:
    """One request for the model's logits after tokens of a text.

    Attributes:
        prompt: The text.
        positions: After which of its tokens, from 0, ascending; None for all.
    """

    prompt: Prompt
    positions: tuple[int, ...] | None = None


Request: TypeAlias = GenerationRequest | ScoreRequest | LogitsRequest


def token_ids(prompt: Prompt) -> list[int]:
    """The ids of a prompt that is tokens by now."""
    assert isinstance(prompt, TokenPrompt)
    return list(prompt.ids)


def check_request(request: Request, vocabulary_size: int, context_length: int) -> None:
    """Check all that can be checked without tokenizing.

    Raises:
        InvalidRequestError: Naming the first field that is out of range.
    """
    match request:
        case GenerationRequest():
            _check_sampling(request.sampling, vocabulary_size)
            _check_stopping(request.stopping, vocabulary_size, context_length)
            _check_count("logprobs.output", request.logprobs.output)
            _check_count("logprobs.prompt", request.logprobs.prompt)
            check_prompt("prompt", request.prompt, vocabulary_size)
        case ScoreRequest():
            check_prompt("context", request.context, vocabulary_size)
            _check_continuations(request.continuations, vocabulary_size)
        case LogitsRequest():
            check_prompt("prompt", request.prompt, vocabulary_size)
            if request.positions is not None:
                check_positions(request.positions)


def check_prompt(field: str, prompt: Prompt, vocabulary_size: int) -> None:
    """Check what a field has, as far as that needs no tokenizer.

    Raises:
        InvalidRequestError: Naming the part of it that is out of range.
    """
    match prompt:
        case TokenPrompt(ids):
            check_token_ids(f"{field}.token_ids", ids, vocabulary_size)
            if not ids:
                raise InvalidRequestError(f"{field}.token_ids", "no tokens", "at least one")
        case ChatPrompt():
            check_chat(f"{field}.chat", prompt)
        case TextPrompt():
            pass


def check_chat(field: str, chat: ChatPrompt) -> None:
    """Check the conversation that a field has.

    Raises:
        InvalidRequestError: If nothing is said in it, or nobody says it.
    """
    if not chat.messages:
        raise InvalidRequestError(f"{field}.messages", "no messages", "at least one")
    for index, turn in enumerate(chat.messages):
        if not 1 <= len(turn.role) <= MAX_ROLE_CHARACTERS:
            found = f"{len(turn.role)} characters"
            raise InvalidRequestError(
                f"{field}.messages[{index}].role", found, f"1 to {MAX_ROLE_CHARACTERS}"
            )


def _check_count(name: str, count: int | None) -> None:
    if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
        raise InvalidRequestError(name, count, f"0 to {MAX_TOP_LOGPROBS}")


def check_at_most(field: str, count: int, things: str, most: int) -> None:
    """Check how many things a field has.

    Raises:
        InvalidRequestError: If there are more than `most`.
    """
    if count > most:
        raise InvalidRequestError(field, f"{count} {things}", f"at most {most}")


def check_continuation_count(count: int) -> None:
    """Check how many continuations there are.

    Raises:
        InvalidRequestError: If it is none, or too many.
    """
    if not 1 <= count <= MAX_CONTINUATIONS:
        raise InvalidRequestError("continuations", count, f"1 to {MAX_CONTINUATIONS}")


def _check_continuations(
    continuations: tuple[str | tuple[int, ...], ...], vocabulary_size: int
) -> None:
    check_continuation_count(len(continuations))
    for index, continuation in enumerate(continuations):
        field = f"continuations[{index}]"
        if not continuation:
            raise InvalidRequestError(field, "nothing", "text or tokens")
        if not isinstance(continuation, str):
            check_token_ids(f"{field}.token_ids", continuation, vocabulary_size)


def check_positions(positions: Sequence[int]) -> None:
    """Check that positions can be of a text, of whatever length.

    Raises:
        InvalidRequestError: If there are none, or with the first that is not above those before.
    """
    if not positions:
        raise InvalidRequestError("positions", "none", "at least one")
    for before, position in pairwise((-1, *positions)):
        if position <= before:
            found = f"{position} after {before}" if before >= 0 else position
            raise InvalidRequestError("positions", found, "ascending ones from 0")


def check_last_position(position: int, prompt_tokens: int) -> None:
    """Check that the last position is one of the prompt's.

    Raises:
        InvalidRequestError: If it is not.
    """
    if position >= prompt_tokens:
        expected = f"below the prompt's {prompt_tokens} tokens"
        raise InvalidRequestError("positions", position, expected)


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
    if sampling.seed is not None and not 0 <= sampling.seed < _SEEDS:
        raise InvalidRequestError("sampling.seed", sampling.seed, "0 to 2**64 - 1")
    _check_penalties(sampling)
    _check_bias(sampling.logit_bias, vocabulary_size)


def _check_penalties(sampling: Sampling) -> None:
    if not 0 < sampling.repetition_penalty <= MAX_PENALTY:
        raise InvalidRequestError(
            "sampling.repetition_penalty", sampling.repetition_penalty, "above 0, up to 100"
        )
    for name in ("presence_penalty", "frequency_penalty"):
        penalty: float = getattr(sampling, name)
        if not -MAX_PENALTY <= penalty <= MAX_PENALTY:
            raise InvalidRequestError(f"sampling.{name}", penalty, "-100 to 100")
    if sampling.penalty_window < 0:
        raise InvalidRequestError("sampling.penalty_window", sampling.penalty_window, "0 or more")


def _check_bias(bias: Mapping[int, float], vocabulary_size: int) -> None:
    check_at_most("sampling.logit_bias", len(bias), "tokens", MAX_LOGIT_BIASES)
    check_token_ids("sampling.logit_bias", tuple(bias), vocabulary_size)
    for value in bias.values():
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidRequestError("sampling.logit_bias", value, "-1e4 to 1e4")


def _check_stopping(stopping: Stopping, vocabulary_size: int, context_length: int) -> None:
    if stopping.max_tokens is not None and not 1 <= stopping.max_tokens <= context_length:
        raise InvalidRequestError(
            "stopping.max_tokens", stopping.max_tokens, f"1 to {context_length}"
        )
    strings, ids = stopping.stop_strings, stopping.stop_token_ids
    check_at_most("stopping.stop_strings", len(strings), "strings", MAX_STOP_STRINGS)
    if "" in strings:
        raise InvalidRequestError("stopping.stop_strings", "an empty string", "none empty")
    longest = max(map(len, strings), default=0)
    check_at_most("stopping.stop_strings", longest, "characters in one", MAX_STOP_STRING_CHARACTERS)
    check_at_most("stopping.stop_token_ids", len(ids), "tokens", MAX_STOP_TOKENS)
    check_token_ids("stopping.stop_token_ids", ids, vocabulary_size)
    limit = stopping.time_limit_seconds
    if limit is not None and not is_time_limit(limit):
        raise InvalidRequestError("stopping.time_limit_seconds", limit, "above 0, up to 1e6")


def time_limit(request: Request) -> float:
    """Seconds that a request may take; infinite without a limit, and for what is refused as one."""
    if not isinstance(request, GenerationRequest):
        return float("inf")
    limit = request.stopping.time_limit_seconds
    return float("inf") if limit is None or not is_time_limit(limit) else limit


def is_time_limit(seconds: float) -> bool:
    """Whether a generation can have this time limit; written so that NaN is none."""
    return 0 < seconds <= MAX_TIME_LIMIT_SECONDS


def check_token_ids(name: str, ids: tuple[int, ...], vocabulary_size: int) -> None:
    """Check that tokens are in the vocabulary.

    Raises:
        InvalidRequestError: Naming the first that is not.
    """
    # A third of the time that a look at each of them takes; there can be a million.
    if not ids or (min(ids) >= 0 and max(ids) < vocabulary_size):
        return
    wrong = next(token_id for token_id in ids if not 0 <= token_id < vocabulary_size)
    raise InvalidRequestError(name, wrong, f"ids from 0 to {vocabulary_size - 1}")
