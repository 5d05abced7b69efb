"""The model of the fake server: tokens are bytes, and chance that repeats takes a model's place.

Scores, log-probabilities and logits come from one function, so that they agree with each other.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

import numpy as np
import numpy.typing as npt

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import InvalidRequestError
from jang_runtime._requests import DEFAULT_MAX_TOKENS

BEGIN: Final = 0
END: Final = 1
_FIRST_BYTE: Final = 2
VOCABULARY_SIZE: Final = 256 + _FIRST_BYTE
CONTEXT_LENGTH: Final = 4096
_SPECIAL_TEXTS: Final = {BEGIN: b"<s>", END: b"</s>"}
# Words with the spaces before them, and spaces at the end.
_PIECES: Final = re.compile(r"\s*\S+|\s+$")

Logprobs = npt.NDArray[np.float64]


def tokens_of(text: str) -> list[int]:
    """The tokens of a text, one for each byte of UTF-8."""
    return [byte + _FIRST_BYTE for byte in text.encode()]


def text_of(tokens: Sequence[int], skip_special_tokens: bool) -> str:
    """The text of tokens; bytes that are no text become U+FFFD."""
    special = {} if skip_special_tokens else _SPECIAL_TEXTS
    parts = (
        bytes([token - _FIRST_BYTE]) if token >= _FIRST_BYTE else special.get(token, b"")
        for token in tokens
    )
    return b"".join(parts).decode(errors="replace")


def check_tokens(field: str, tokens: Sequence[int]) -> None:
    """Refuse tokens that the model does not have.

    Raises:
        InvalidRequestError: With the first of them.
    """
    for token in tokens:
        if token >= VOCABULARY_SIZE:
            raise InvalidRequestError(field, token, f"ids from 0 to {VOCABULARY_SIZE - 1}")


def chat_text(chat: pb.Chat, add_generation_prompt: bool) -> str:
    """A conversation as the model reads it."""
    turns = [f"{message.role}: {message.content}\n" for message in chat.messages]
    return "".join(turns) + ("assistant: " if add_generation_prompt else "")


def logits_after(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """The logits after some tokens: `[vocabulary]`, always the same for the same tokens."""
    seed = zlib.crc32(np.asarray(tokens, dtype="<u4").tobytes())
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY_SIZE).astype(np.float32)


def logprobs_after(tokens: Sequence[int]) -> Logprobs:
    """The natural logarithms of the probabilities of what comes after some tokens."""
    logits = logits_after(tokens).astype(np.float64)
    return logits - np.logaddexp.reduce(logits)


def token_logprobs(
    before: Sequence[int], tokens: Sequence[int], top: int
) -> list[pb.TokenLogprobs]:
    """How likely each of some tokens is after those before it, with the most likely ones."""
    text = [*before, *tokens]
    rows: list[pb.TokenLogprobs] = []
    for index, token in enumerate(tokens, start=len(before)):
        logprobs = logprobs_after(text[:index])
        best = [int(other) for other in np.argsort(-logprobs, kind="stable")[:top]]
        rows.append(
            pb.TokenLogprobs(
                token_id=token,
                logprob=float(logprobs[token]),
                rank=1 + int((logprobs > logprobs[token]).sum()),
                top=[pb.TopLogprob(token_id=i, logprob=float(logprobs[i])) for i in best],
            )
        )
    return rows


@dataclass(frozen=True)
class Planned:
    """An answer before it is sent.

    Attributes:
        text: What is left of it after stop strings and limits.
        reason: Why it ends.
        matched: What ended it, for the two reasons that have such.
    """

    text: str
    reason: "pb.FinishReason.ValueType"
    matched: str | int | None = None

    def pieces(self) -> list[str]:
        """The text in words, as it is streamed."""
        return _PIECES.findall(self.text)


def plan_answer(answer: str, stopping: pb.Stopping) -> Planned:
    """Cut a scripted answer as a model's would be cut; `ignore_eos` says it again and again."""
    most = stopping.max_tokens if stopping.HasField("max_tokens") else DEFAULT_MAX_TOKENS
    tokens = tokens_of(answer)
    if stopping.ignore_eos:
        tokens = list(islice(cycle(tokens), most))
    # Which end comes first, in tokens; and how many tokens are left before it.
    ends = [(len(tokens), len(tokens), Planned("", pb.FINISH_REASON_EOS))]
    data = bytes(token - _FIRST_BYTE for token in tokens)
    for stop in stopping.stop_strings:
        found = data.find(stop.encode())
        if found >= 0:
            planned = Planned("", pb.FINISH_REASON_STOP_STRING, stop)
            ends.append((found + len(stop.encode()), found, planned))
    for token in stopping.stop_token_ids:
        if token in tokens:
            found = tokens.index(token)
            ends.append((found + 1, found, Planned("", pb.FINISH_REASON_STOP_TOKEN, token)))
    if most <= len(tokens):
        ends.append((most, most, Planned("", pb.FINISH_REASON_MAX_TOKENS)))
    _, kept, planned = min(ends, key=lambda end: (end[0], end[2].reason == pb.FINISH_REASON_EOS))
    # Half a character is never sent.
    return Planned(data[:kept].decode(errors="ignore"), planned.reason, planned.matched)
