"""Who runs next: one step works on some text and gives every running generation a token."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, TypeAlias

import mlx.core as mx

from jang_runtime._batch import Batch, BatchError, Row, Token
from jang_runtime._cache_room import CacheRoom
from jang_runtime._caches import ForwardPass, check_kv_quantization, why_alone
from jang_runtime._errors import (
    CacheTooSmallError,
    EngineStoppedError,
    GenerationError,
    InvalidRequestError,
    JangRuntimeError,
)
from jang_runtime._events import Finished, FinishReason, Timings
from jang_runtime._generation import Generation
from jang_runtime._memory import half_of_free_memory
from jang_runtime._model import LoadedModel
from jang_runtime._options import EngineOptions, check_options
from jang_runtime._outside import Outside, look_at
from jang_runtime._prefix_cache import PrefixCache
from jang_runtime._ranks.group import ONE_RANK, Ranks
from jang_runtime._requests import (
    GenerationRequest,
    LogitsRequest,
    ScoreRequest,
)
from jang_runtime._scoring import Positions, Scoring
from jang_runtime._statistics import EngineStatistics
from jang_runtime._tickets import Ticket
from jang_runtime._waiting import Waiting

_log = logging.getLogger("jang_runtime")

# Tokens of text in a step, for which running generations wait, and where none is running; between
# steps a request can be cancelled.
_PIECE: Final = {"cpu": 64, "metal": 512, "cuda": 512}
_PIECE_ALONE: Final = {"cpu": 256, "metal": 2048, "cuda": 2048}

Task: TypeAlias = Generation | Scoring | Positions


class Scheduler:
    """Runs requests on a model, in the thread that owns it.

    Args:
        loaded: The model, or this process's part of it.
        options: How to run requests.
        ranks: The processes that run the model, and take the same decisions.

    Raises:
        InvalidRequestError: If an option is out of range.
        ModelError: If the architecture cannot do what an option asks for.
    """

    def __init__(
        self, loaded: LoadedModel, options: EngineOptions, ranks: Ranks = ONE_RANK
    ) -> None:
        check_options(options)
        if options.kv_quantization is not None:
            check_kv_quantization(loaded, options.kv_quantization)
        self._loaded = loaded
        self._ranks = ranks
        alone = why_alone(loaded, options.kv_quantization)
        if alone is not None:
            _log.info("%s: one request at a time: %s", loaded.info.architecture, alone)
        (is_alone,) = ranks.largest([alone is not None])
        self._most = 1 if is_alone else options.max_active
        self._forward = ForwardPass(
            loaded.model, loaded.info.vocabulary_size, options.kv_quantization
        )
        self._known = PrefixCache(options.prefix_cache_bytes, ranks)
        room = options.cache_bytes or half_of_free_memory(self._loaded.info.backend)
        (smallest,) = ranks.largest([-room])
        self._room = CacheRoom(-smallest, ranks)
        # Every request that has not ended, wherever it is.
        self._open: dict[Ticket, None] = {}
        self._waiting = Waiting(loaded, self._room)
        self._generations: deque[Generation] = deque()
        self._scorings: deque[Scoring | Positions] = deque()
        self._decoding: dict[Row, tuple[Generation, Batch]] = {}
        self._batch = self._new_batch()
        # Those that were in a batch that failed, and run in one of their own.
        self._isolated: set[Generation] = set()
        self._scoring_is_next = False
        self._counts: Counter[str] = Counter()

    def look_outside(self) -> Outside:
        """What is so by now for open requests."""
        return look_at(self._open)

    def open_tickets(self) -> tuple[Ticket, ...]:
        """Every request that has not ended, in the order in which they came."""
        return tuple(self._open)

    def decided(self) -> bytes:
        """What tells this scheduler's decisions from others."""
        # Not those that wait: rank 0 may have new ones already. Not bytes: layers differ.
        own = {"queued": 0, "cache_bytes_reserved": 0, "active_memory": 0, "peak_memory": 0}
        return repr(replace(self.statistics(), **own)).encode()

    def has_work(self, outside: Outside) -> bool:
        """Whether a step would do anything."""
        return bool(
            outside.cancelled
            or outside.expired
            or self._decoding
            or any(
                task.ticket not in outside.blocked for task in (*self._generations, *self._scorings)
            )
            or (self._waiting.may_begin and self._has_place(outside.blocked))
        )

    def submit(self, ticket: Ticket) -> None:
        """Take a request; it begins in a later step."""
        self._open[ticket] = None
        self._waiting.add(ticket)

    def step(self, outside: Outside) -> None:
        """Do a bounded piece of work for each of some requests.

        Nothing but the calls of this class and the model decides what happens.
        """
        self._drop(outside.cancelled, FinishReason.CANCELLED)
        self._drop(outside.expired, FinishReason.DEADLINE)
        while self._waiting and self._has_place(outside.blocked) and self._begin_first():
            pass
        self._work_on_text(outside.blocked)
        batches = {id(batch): batch for _, batch in self._decoding.values()}
        for batch in batches.values():
            self._decode(batch)

    def cancel_all(self) -> None:
        """Cancel every request."""
        self._drop(list(self._open), FinishReason.CANCELLED)

    def stop(self, error: JangRuntimeError) -> None:
        """End every request with this error."""
        for tasks in (self._waiting, self._generations, self._scorings, self._decoding):
            tasks.clear()
        self._batch = self._new_batch()
        for ticket in list(self._open):
            self._fail(ticket, error)

    def clear_prefix_cache(self) -> None:
        """Forget what is kept of earlier requests."""
        self._known.clear()
        mx.clear_cache()

    def statistics(self) -> EngineStatistics:
        """The numbers of this moment."""
        return EngineStatistics(
            queued=len(self._waiting),
            active=len(self._generations) + len(self._scorings) + len(self._decoding),
            places=self._most,
            decoding=len(self._decoding),
            finished=self._counts["finished"],
            cancelled=self._counts["cancelled"],
            failed=self._counts["failed"],
            prompt_tokens=self._counts["prompt_tokens"],
            cached_prompt_tokens=self._counts["cached_prompt_tokens"],
            generated_tokens=self._counts["generated_tokens"],
            prefix_cache_bytes=self._known.size,
            prefix_cache_lookups=self._known.lookups,
            prefix_cache_hits=self._known.hits,
            cache_bytes=self._room.limit,
            cache_bytes_reserved=self._room.reserved,
            active_memory=mx.get_active_memory(),
            peak_memory=mx.get_peak_memory(),
        )

    def _has_place(self, blocked: Collection[Ticket]) -> bool:
        """Whether one more can run; those that nobody reads hold their memory, but no place."""
        texts = (*self._generations, *self._scorings)
        running = sum(task.ticket not in blocked for task in texts) + len(self._decoding)
        return running < self._most

    def _new_batch(self) -> Batch:
        keep = self._known.put if self._known.is_on else None
        return Batch(self._forward, keep, self._ranks)

    def _begin_first(self) -> bool:
        """Begin the first of those that wait, which may fail of it; False if it has to wait on."""
        ticket = self._waiting.first()
        fits = True

        def make() -> None:
            nonlocal fits
            request = self._waiting.admitted(ticket)
            match request:
                case None:
                    fits = False
                    return
                case GenerationRequest():
                    task = Generation(self._loaded, self._forward, self._known, ticket, request)
                    self._generations.append(task)
                case ScoreRequest():
                    task = Scoring(self._loaded, self._forward, self._known, ticket, request)
                    self._scorings.append(task)
                case LogitsRequest():
                    task = Positions(self._loaded, self._forward, ticket, request)
                    self._scorings.append(task)
            self._counts["prompt_tokens"] += task.prompt_tokens
            self._counts["cached_prompt_tokens"] += task.cached_prompt_tokens

        self._guarded(ticket, make)
        if fits:
            self._waiting.remove(ticket)
        return fits

    def _work_on_text(self, blocked: Collection[Ticket]) -> None:
        """A piece of prompts or of texts to score, in turns; in each the first comes first."""
        free = deque(task for task in self._scorings if task.ticket not in blocked)
        prompts = deque(task for task in self._generations if task.ticket not in blocked)
        scoring = bool(free) and (self._scoring_is_next or not prompts)
        self._scoring_is_next = not scoring
        left = (_PIECE if self._decoding else _PIECE_ALONE)[self._loaded.info.backend]
        while left > 0 and (free if scoring else prompts):
            # More than have places can be here, once they are read again.
            if not scoring and len(self._decoding) >= self._most:
                break
            # What each piece has results of is taken by one a step, for its reader to keep up.
            if not scoring:
                left -= self._prefill(prompts[0], left)
                if prompts[0] not in self._generations or prompts[0].measures_prompt:
                    prompts.popleft()
                continue
            left -= self._score(free[0], left)
            if free[0].ticket not in self._open or isinstance(free[0], Positions):
                free.popleft()

    def _score(self, task: Scoring | Positions, most: int) -> int:
        """Work on a text to score; how many tokens it were."""
        count = 0

        def work() -> None:
            nonlocal count
            count = task.advance(most)
            if task.is_done:
                self._scorings.remove(task)
                self._finish(task, FinishReason.COMPLETE)

        if not self._guarded(task.ticket, work):
            self._scorings = deque(other for other in self._scorings if other is not task)
        return count

    def _prefill(self, task: Generation, most: int) -> int:
        """Work on a prompt; once it is done the request joins a batch. How many tokens it were."""
        count = 0

        def work() -> None:
            nonlocal count
            count = task.advance(most)
            if task.is_ready:
                # Its first token takes a pass of its own.
                count += 1
                batch = self._new_batch() if task in self._isolated else self._batch
                caches = task.hand_over()
                try:
                    batch.join(task.row, caches)
                    if not self._room.is_learned:
                        self._room.learn(caches)
                except BatchError as error:
                    self._decoding[task.row] = (task, batch)
                    self._generations.remove(task)
                    self._lose(batch, error)
                else:
                    self._decoding[task.row] = (task, batch)
                    self._generations.remove(task)

        if not self._guarded(task.ticket, work):
            self._generations = deque(other for other in self._generations if other is not task)
            self._isolated.discard(task)
        return count

    def _decode(self, batch: Batch) -> None:
        try:
            for token in batch.step():
                self._take(batch, token)
        except BatchError as error:
            self._lose(batch, error)

    def _take(self, batch: Batch, token: Token) -> None:
        task, _ = self._decoding[token.row]
        has_ended = False

        def work() -> None:
            nonlocal has_ended
            self._counts["generated_tokens"] += 1
            has_ended = task.take(token)
            if has_ended:
                self._close(task.ticket, "finished")
            elif token.error is not None:
                raise token.error

        if not self._guarded(task.ticket, work) or has_ended:
            self._remove(task)
            batch.leave(token.row)

    def _lose(self, batch: Batch, error: BatchError) -> None:
        """A batch has failed: its rows begin again, each alone; one that was alone fails.

        Raises:
            EngineStoppedError: If there are other processes, which may have gone on.
        """
        self._ranks.fault(error)
        _log.warning("a batch failed: %s", error, exc_info=error)
        tasks = [task for task, its in self._decoding.values() if its is batch]
        if batch is self._batch:
            self._batch = self._new_batch()
        for task in tasks:
            self._remove(task)
            if len(tasks) == 1:
                self._fail(task.ticket, _failed_by(error.__cause__ or error))
                continue
            task.restart()
            self._isolated.add(task)
            self._generations.append(task)

    def _remove(self, task: Generation) -> None:
        self._decoding.pop(task.row, None)
        self._isolated.discard(task)

    def _drop(self, dropped: Collection[Ticket], reason: FinishReason) -> None:
        """End requests with what they have."""
        for ticket in self._waiting.those_of(dropped):
            self._waiting.remove(ticket)
            self._guarded(ticket, lambda ticket=ticket: self._finish_waiting(ticket, reason))
        for queue in (self._generations, self._scorings):
            for task in [task for task in queue if task.ticket in dropped]:
                queue.remove(task)  # pyright: ignore[reportArgumentType] - of its own kind
                self._guarded(task.ticket, lambda task=task: self._finish(task, reason))
        for row, (task, batch) in list(self._decoding.items()):
            # A batch that was lost for another row's sake has begun again already.
            if task.ticket not in dropped or row not in self._decoding:
                continue
            self._remove(task)
            self._guarded(task.ticket, lambda task=task: self._finish(task, reason))
            try:
                batch.leave(row)
            except BatchError as error:
                self._lose(batch, error)

    def _finish(self, task: Task, reason: FinishReason) -> None:
        task.finish(reason)
        self._close(task.ticket, "finished")
        self._counts["cancelled"] += reason is FinishReason.CANCELLED

    def _finish_waiting(self, ticket: Ticket, reason: FinishReason) -> None:
        waited = Timings(queue=time.monotonic() - ticket.arrived, prefill=0.0, decode=0.0)
        ticket.listener(Finished(reason, None, 0, 0, waited))
        self._close(ticket, "finished")
        self._counts["cancelled"] += reason is FinishReason.CANCELLED

    def _close(self, ticket: Ticket, count: str) -> None:
        """Count a request that has had its last event."""
        del self._open[ticket]
        self._waiting.ended(ticket)
        self._counts[count] += 1

    def _guarded(self, ticket: Ticket, work: Callable[[], None]) -> bool:
        """Do something for one request; if that fails the request fails, and False comes back."""
        try:
            work()
        except (InvalidRequestError, CacheTooSmallError) as error:
            self._fail(ticket, error)
        except EngineStoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - a request that fails fails alone
            self._ranks.fault(error)
            _log.exception("a request failed in the engine")
            self._fail(ticket, _failed_by(error))
        else:
            return True
        return False

    def _fail(self, ticket: Ticket, error: JangRuntimeError) -> None:
        self._close(ticket, "failed")
        ticket.fail(error)


def _failed_by(error: BaseException) -> GenerationError:
    """What a request fails with; the cause's own words may be of its text, and go to the log."""
    failure = GenerationError(f"generation failed: {type(error).__name__}")
    failure.__cause__ = error
    return failure
