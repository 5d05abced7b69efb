"""What the engine tells about a request: `Started`, results, then `Finished` or `Failed`.

The results are `Delta`s of a generation, after `PromptLogprobs` where they were asked for, one
`Score` for each continuation, in their order, or `Logits`. `Failed` may come without `Started`.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from jang_runtime._errors import JangRuntimeError


class FinishReason(StrEnum):
    """Why a request ended; names as in jang/runtime/v1/runtime.proto.

    COMPLETE is for scores and logits: all that was asked for was computed.
    """

    EOS = "EOS"
    STOP_STRING = "STOP_STRING"
    STOP_TOKEN = "STOP_TOKEN"
    MAX_TOKENS = "MAX_TOKENS"
    CONTEXT_FULL = "CONTEXT_FULL"
    CANCELLED = "CANCELLED"
    DEADLINE = "DEADLINE"
    COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class Started:
    """The request is accepted; its prompt has this many tokens."""

    prompt_tokens: int


@dataclass(frozen=True)
class TokenLogprobs:
    """A token's log-probability, and the most likely tokens in its place.

    Attributes:
        token_id: The token that came.
        logprob: Its natural logarithm of probability, of the model's own distribution.
        rank: One more than the number of likelier tokens: 1 for the most likely one.
        top: Ids and log-probabilities of the most likely tokens, the most likely first.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class PromptLogprobs:
    """Log-probabilities of some of the prompt's tokens; all of these come in order.

    The first token is left out: nothing comes before it. A prompt without others has one event
    without tokens.
    """

    tokens: tuple[TokenLogprobs, ...]


@dataclass(frozen=True)
class Delta:
    """New text, whole characters only, and the tokens since the last delta.

    `logprobs` has one entry for each token if they were asked for, else none.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Score:
    """The log-likelihood of one continuation.

    Attributes:
        index: Which one.
        token_ids: Its tokens.
        logprobs: Natural logarithm of each token's probability after those before it.
        is_greedy: Whether each of them was the most likely token.
    """

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_greedy: bool

    @property
    def total(self) -> float:
        """The log-likelihood of the whole continuation."""
        return sum(self.logprobs)


@dataclass(frozen=True)
class Logits:
    """Logits after some tokens of a text.

    Attributes:
        positions: After which, n of them.
        values: `[n, vocabulary]` float32.
    """

    positions: tuple[int, ...]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, in seconds."""

    queue: float
    prefill: float
    decode: float


@dataclass(frozen=True)
class Finished:
    """The end of a request.

    Attributes:
        reason: Why it ended.
        matched_stop: The stop string or stop token that matched, for those two reasons.
        prompt_tokens: Tokens in the prompt, or in the context of continuations.
        completion_tokens: Tokens generated, the one that ended the text not counted; tokens of
            continuations that were scored.
        timings: Where the time went.
        cached_prompt_tokens: Tokens of the prompt that were known from earlier requests.
    """

    reason: FinishReason
    matched_stop: str | int | None
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    cached_prompt_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be served."""

    error: JangRuntimeError


Event = Started | PromptLogprobs | Delta | Score | Logits | Finished | Failed
