"""One generation from request to text, in the thread that owns the model."""

import time
from collections.abc import Sequence

import mlx.core as mx

from jang_runtime._batch import Row, Token
from jang_runtime._caches import Caches, ForwardPass, new_caches
from jang_runtime._errors import InvalidRequestError
from jang_runtime._events import (
    Delta,
    Finished,
    FinishReason,
    PromptLogprobs,
    Started,
    Timings,
    TokenLogprobs,
)
from jang_runtime._logprobs import measure, read
from jang_runtime._model import LoadedModel
from jang_runtime._prefill import Prefill
from jang_runtime._prefix_cache import PrefixCache
from jang_runtime._prompts import decode
from jang_runtime._requests import DEFAULT_MAX_TOKENS, GenerationRequest, token_ids
from jang_runtime._sampling import make_chooser
from jang_runtime._text import Detokenizer, StopStrings
from jang_runtime._tickets import Ticket


class Generation:
    """A request for text under way: its prompt is worked through, then tokens come to it.

    Args:
        loaded: The model; this is its thread.
        forward: The model's forward pass.
        known: Caches of earlier texts.
        ticket: Where the events go.
        request: The ticket's, in tokens.

    Raises:
        InvalidRequestError: If the request asks for what cannot be done.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        forward: ForwardPass,
        known: PrefixCache,
        ticket: Ticket,
        request: GenerationRequest,
    ) -> None:
        self.ticket = ticket
        self._begun = time.monotonic()
        self._first_token: float | None = None
        self._loaded = loaded
        self._forward = forward
        self._known = known
        self._request = request
        prompt = token_ids(request.prompt)
        room = loaded.info.context_length - len(prompt)
        if room < 1:
            expected = f"fewer than the context's {loaded.info.context_length}"
            raise InvalidRequestError("prompt", f"{len(prompt)} tokens", expected)
        self._prompt_length = len(prompt)
        self.row = Row(
            chooser=make_chooser(request.sampling),
            top_logprobs=request.logprobs.output,
            tokens=prompt,
            outputs=0,
            limit=min(request.stopping.max_tokens or DEFAULT_MAX_TOKENS, room),
            cached=0,
        )
        self._prompt_is_told = False
        # Logits at a position are about the next token, so those of all of these are wanted.
        hit = known.take(prompt, 0 if self.measures_prompt else len(prompt) - 1)
        caches, self._cached_prompt = hit or (new_caches(loaded.model), 0)
        self._prefill = Prefill(
            forward,
            prompt[:-1],
            caches,
            done=self._cached_prompt,
            wanted=0 if self.measures_prompt else len(prompt),
        )
        stopping = request.stopping
        self._eos = () if stopping.ignore_eos else loaded.info.eos_token_ids
        self._detokenizer = Detokenizer(lambda ids: decode(loaded.tokenizer, ids))
        self._stop_strings = StopStrings(stopping.stop_strings)
        self._completion_tokens = 0
        self._unsent: list[int] = []
        self._unsent_logprobs: list[TokenLogprobs] = []
        ticket.listener(Started(prompt_tokens=len(prompt)))

    @property
    def prompt_tokens(self) -> int:
        """Tokens in the prompt."""
        return self._prompt_length

    @property
    def cached_prompt_tokens(self) -> int:
        """Tokens of the prompt that were known from earlier requests."""
        return self._cached_prompt

    @property
    def measures_prompt(self) -> bool:
        """Whether each piece of the prompt has log-probabilities for its listener."""
        return self._request.logprobs.prompt is not None

    def hand_over(self) -> Caches:
        """The caches of all tokens but the last, once `is_ready`; they are kept here no longer."""
        caches, self._prefill.caches = self._prefill.caches, []
        return caches

    @property
    def is_ready(self) -> bool:
        """Whether the prompt is worked through, all but its last token."""
        return self._prefill.remaining == 0

    def advance(self, most: int) -> int:
        """Work through at most `most` tokens of the prompt; how many it were."""
        count = self._prefill.advance(most, self._measure_prompt)
        if self.is_ready and not self._prompt_is_told:
            self._prompt_is_told = True
            self._known.put(self.row.tokens[:-1], self._prefill.caches)
            if self.measures_prompt and self._prompt_length == 1:
                self.ticket.listener(PromptLogprobs(()))
        return count

    def restart(self) -> None:
        """Work through prompt and output so far again, after a batch was lost."""
        old = self.row
        self.row = Row(
            chooser=old.chooser,
            top_logprobs=old.top_logprobs,
            tokens=old.tokens,
            outputs=len(old.tokens) - self._prompt_length,
            limit=old.limit,
            cached=0,
        )
        self._prefill = Prefill(
            self._forward,
            old.tokens[:-1],
            new_caches(self._loaded.model),
            done=0,
            wanted=len(old.tokens),
        )

    def take(self, token: Token) -> bool:
        """Turn a token into text; whether the generation has ended with it."""
        self._first_token = self._first_token or time.monotonic()
        token_id, stopping = token.token_id, self._request.stopping
        if token_id in stopping.stop_token_ids:
            return self._end(FinishReason.STOP_TOKEN, token_id)
        if token_id in self._eos:
            return self._end(FinishReason.EOS)
        self._completion_tokens += 1
        self._unsent.append(token_id)
        if token.logprobs is not None:
            self._unsent_logprobs.append(token.logprobs)
        text, matched = self._stop_strings.add(self._detokenizer.add(token_id))
        if text or matched:
            self._send(text)
        if matched:
            self._finish(FinishReason.STOP_STRING, matched)
            return True
        if self._completion_tokens == self.row.limit:
            return self._end(self._why_no_more())
        return False

    def finish(self, reason: FinishReason) -> None:
        """End before the text is at its end: send what there is of it, and the last event."""
        self._end(reason)

    def _finish(self, reason: FinishReason, matched_stop: str | int | None = None) -> None:
        """Send the last event."""
        now = time.monotonic()
        first_token = self._first_token or now
        self.ticket.listener(
            Finished(
                reason=reason,
                matched_stop=matched_stop,
                prompt_tokens=self._prompt_length,
                completion_tokens=self._completion_tokens,
                timings=Timings(
                    queue=self._begun - self.ticket.arrived,
                    prefill=first_token - self._begun,
                    decode=now - first_token,
                ),
                cached_prompt_tokens=self._cached_prompt,
            )
        )

    def _end(self, reason: FinishReason, matched_stop: str | int | None = None) -> bool:
        """Send the text that was held back, which may yet hold a stop string, and the end."""
        text, matched = self._stop_strings.add(self._detokenizer.finish())
        text += "" if matched else self._stop_strings.finish()
        if text or self._unsent:
            self._send(text)
        if matched:
            reason, matched_stop = FinishReason.STOP_STRING, matched
        self._finish(reason, matched_stop)
        return True

    def _send(self, text: str) -> None:
        delta = Delta(text, tuple(self._unsent), tuple(self._unsent_logprobs))
        self._unsent, self._unsent_logprobs = [], []
        self.ticket.listener(delta)

    def _why_no_more(self) -> FinishReason:
        allowed = self._request.stopping.max_tokens or DEFAULT_MAX_TOKENS
        filled = self._completion_tokens < allowed
        return FinishReason.CONTEXT_FULL if filled else FinishReason.MAX_TOKENS

    def _measure_prompt(self, position: int, logits: mx.array) -> Sequence[mx.array]:
        tokens = self.row.tokens[position + 1 : position + 1 + len(logits)]
        measured = measure(logits, mx.array(tokens), self._request.logprobs.prompt or 0)
        self.ticket.listener(PromptLogprobs(tuple(read(measured, tokens))))
        return measured.arrays()
