"""Several requests that take their next tokens together, one forward pass for all.

This stands where mlx-lm's BatchGenerator could, over the same caches. That one pads prompts, which
some recurrent layers get wrong; computes the log-softmax of every row in every step, 0.8 ms on a
CPU for a vocabulary of 49,152; passes a batch's mask even for one row; and loses the whole batch
when one row's sampler raises, for the caches have moved by then.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import mlx.core as mx

from jang_runtime._caches import Caches, ForwardPass, extend, extract, keep_rows, merged
from jang_runtime._events import TokenLogprobs
from jang_runtime._logprobs import MeasuredTokens, measure, read
from jang_runtime._ranks.group import ONE_RANK, Ranks
from jang_runtime._sampling import Chooser

# MLX keeps freed buffers for reuse; batches of growing lengths leave ever more of them.
_STEPS_BETWEEN_CLEARS: Final = 256


class BatchError(Exception):
    """A pass for all rows failed; the caches of the batch are of no use any more."""


@dataclass(eq=False)
class Row:
    """One request in a batch.

    Attributes:
        chooser: Chooses its tokens.
        top_logprobs: How many log-probabilities come with each token; None for none.
        tokens: Prompt and output, as far as they are known.
        outputs: How many of `tokens` are output.
        limit: The most outputs.
        cached: How many of `tokens` the caches hold.
    """

    chooser: Chooser
    top_logprobs: int | None
    tokens: list[int]
    outputs: int
    limit: int
    cached: int
    _text: mx.array | None = field(default=None, repr=False)

    def text(self) -> mx.array | None:
        """Ids of all tokens fed to the model, lazily, if the chooser looks back."""
        if self._text is None and self.chooser.looks_back:
            self._text = mx.array(self.tokens, mx.uint32)
        return self._text

    def feed(self, token: mx.array) -> None:
        """The model gets this token, `[1]`, of which nobody knows yet which it is."""
        if (text := self.text()) is not None:
            self._text = mx.concatenate([text, token.astype(mx.uint32)])


@dataclass(frozen=True)
class Token:
    """A row's next token, or why it gets no more."""

    row: Row
    token_id: int
    logprobs: TokenLogprobs | None
    error: Exception | None = None


@dataclass(frozen=True)
class _Pending:
    """What was chosen last for each row and is being computed."""

    tokens: mx.array
    measured: list[MeasuredTokens | None]

    def rows(self, rows: list[int]) -> "_Pending":
        return _Pending(self.tokens[mx.array(rows)], [self.measured[row] for row in rows])


class Batch:
    """Rows that step together; a step's tokens are read while the next one is computed.

    Args:
        forward: The model.
        keep: Gets the tokens and the caches of rows that leave; None if nobody wants them.
        ranks: The processes that have to choose the same tokens.
    """

    def __init__(
        self,
        forward: ForwardPass,
        keep: Callable[[list[int], Caches], None] | None = None,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self._forward = forward
        self._ranks = ranks
        self._keep = keep
        self._rows: list[Row] = []
        self._caches: Caches = []
        self._pending: _Pending | None = None
        self._steps = 0

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, those at their limit included."""
        return tuple(self._rows)

    def join(self, row: Row, caches: Caches) -> None:
        """Add a row whose caches hold all of its tokens but the last; its first token is chosen.

        Raises:
            BatchError: If the caches do not go together.
            Exception: Whatever the row's own pass or choice raises; the batch is as it was.
        """
        logits = self._forward(mx.array([row.tokens[-1:]]), caches)[:, -1]
        token, measured = _choose(row, logits, row.outputs)
        token = self._ranks.of_first(token)
        arrays = measured.arrays() if measured else ()
        mx.async_eval(token, *arrays)  # pyright: ignore[reportUnknownMemberType]
        row.cached = len(row.tokens)
        try:
            self._add(row, caches, token, measured)
        except Exception as error:
            raise BatchError(str(error)) from error

    def _add(
        self, row: Row, caches: Caches, token: mx.array, measured: MeasuredTokens | None
    ) -> None:
        if self._pending is None:
            self._caches = caches
            self._pending = _Pending(token, [measured])
        else:
            if len(self._rows) == 1:
                self._caches = merged([self._caches, caches])
            else:
                extend(self._caches, merged([caches]))
            self._pending = _Pending(
                mx.concatenate([self._pending.tokens, token]), [*self._pending.measured, measured]
            )
        self._rows.append(row)

    def step(self) -> list[Token]:
        """The next token of each row; rows at their limit leave with it.

        Raises:
            BatchError: If a pass failed.
        """
        rows, chosen = self._rows, self._pending
        if chosen is None:
            return []
        try:
            # A row's last token is not fed to the model: nothing comes after it.
            self._retain([n for n, row in enumerate(rows) if row.outputs + 1 < row.limit])
            failures = self._advance() if self._rows else {}
            tokens = _read(rows, chosen)
        except Exception as error:
            raise BatchError(str(error) or type(error).__name__) from error
        for token in tokens:
            token.row.tokens.append(token.token_id)
            token.row.outputs += 1
        for row in self._rows:
            row.cached = len(row.tokens)
        return [
            Token(token.row, token.token_id, token.logprobs, failures.get(token.row))
            for token in tokens
        ]

    def leave(self, row: Row) -> None:
        """Take a row out; no effect if it has left.

        Raises:
            BatchError: If the caches cannot be taken apart.
        """
        try:
            self._retain([n for n, other in enumerate(self._rows) if other is not row])
        except Exception as error:
            raise BatchError(str(error)) from error

    def _retain(self, kept: list[int]) -> None:
        """Keep these rows; the caches of the others are handed on."""
        if len(kept) == len(self._rows):
            return
        for n, row in enumerate(self._rows):
            if self._keep is not None and n not in kept:
                self._keep(row.tokens[: row.cached], self._caches_of(n))
        if not kept:
            self._caches, self._pending = [], None
        else:
            if len(kept) == 1:
                self._caches = self._caches_of(kept[0])
            else:
                keep_rows(self._caches, kept)
            assert self._pending is not None
            self._pending = self._pending.rows(kept)
        self._rows = [self._rows[n] for n in kept]

    def _caches_of(self, n: int) -> Caches:
        return self._caches if len(self._rows) == 1 else extract(self._caches, n)

    def _advance(self) -> dict[Row, Exception]:
        """Feed the pending tokens, choose the next ones; rows that cannot choose, and why."""
        assert self._pending is not None
        inputs = self._pending.tokens
        logits = self._forward(inputs[:, None], self._caches)[:, -1]
        failures: dict[Row, Exception] = {}
        greedy = mx.argmax(logits, axis=-1)
        measured: list[MeasuredTokens | None] = [None] * len(self._rows)
        tokens = [greedy]
        if not all(row.chooser.is_plain and row.top_logprobs is None for row in self._rows):
            tokens = [greedy[n : n + 1] for n in range(len(self._rows))]
            for n, row in enumerate(self._rows):
                try:
                    row.feed(inputs[n : n + 1])
                    # The token being fed is one more than `row.outputs` has counted.
                    tokens[n], measured[n] = _choose(row, logits[n : n + 1], row.outputs + 1)
                except Exception as error:  # noqa: BLE001 - reported as the row's end
                    failures[row] = error
        chosen = self._ranks.of_first(mx.concatenate(tokens) if len(tokens) > 1 else tokens[0])
        self._pending = _Pending(chosen, measured)
        arrays = [array for each in measured if each is not None for array in each.arrays()]
        mx.async_eval(self._pending.tokens, *arrays)  # pyright: ignore[reportUnknownMemberType]
        self._steps += 1
        if self._steps % _STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        return failures


def _choose(row: Row, logits: mx.array, index: int) -> tuple[mx.array, MeasuredTokens | None]:
    token = row.chooser.choose(logits, row.text(), index)
    if row.top_logprobs is None:
        return token, None
    return token, measure(logits, token, row.top_logprobs)


def _read(rows: list[Row], chosen: _Pending) -> list[Token]:
    """Wait for the tokens."""
    ids = cast(list[int], chosen.tokens.tolist())
    return [
        Token(row, token, read(measured, [token])[0] if measured is not None else None)
        for row, token, measured in zip(rows, ids, chosen.measured, strict=True)
    ]
