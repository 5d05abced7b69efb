"""Requests that have not begun: first come, first served, as memory allows."""

from collections import deque
from collections.abc import Collection

from jang_runtime._cache_room import CacheRoom, cache_need
from jang_runtime._model import LoadedModel
from jang_runtime._prompts import in_tokens
from jang_runtime._requests import Request, check_request
from jang_runtime._tickets import Ticket


class Waiting:
    """The queue before a scheduler.

    Args:
        loaded: The model.
        room: Promises memory to those that begin.
    """

    def __init__(self, loaded: LoadedModel, room: CacheRoom) -> None:
        self._loaded = loaded
        self._room = room
        self._tickets: deque[Ticket] = deque()
        # Of those that wait for memory: the prompt is made tokens of once.
        self._in_tokens: dict[Ticket, Request] = {}
        # Whether a request came or went since the last look at the first.
        self._has_changed = False

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def may_begin(self) -> bool:
        """Whether it is worth asking whether the first can begin."""
        return bool(self._tickets) and self._has_changed

    def add(self, ticket: Ticket) -> None:
        """Put a request at the end."""
        self._tickets.append(ticket)
        self._has_changed = True

    def first(self) -> Ticket:
        """The request that has waited longest."""
        self._has_changed = False
        return self._tickets[0]

    def admitted(self, ticket: Ticket) -> Request | None:
        """A request in tokens, with memory promised to it; None if it has to wait for that.

        Raises:
            InvalidRequestError: If it asks for what cannot be done.
            CacheTooSmallError: If there is never enough memory for it.
        """
        info = self._loaded.info
        if ticket not in self._in_tokens:
            check_request(ticket.request, info.vocabulary_size, info.context_length)
            self._in_tokens[ticket] = in_tokens(self._loaded.tokenizer, ticket.request)
        request = self._in_tokens[ticket]
        return (
            request if self._room.take(ticket, cache_need(request, info.context_length)) else None
        )

    def remove(self, ticket: Ticket) -> None:
        """A request begins, or is given up."""
        self._tickets.remove(ticket)

    def those_of(self, tickets: Collection[Ticket]) -> list[Ticket]:
        """Which of these wait."""
        return [ticket for ticket in self._tickets if ticket in tickets]

    def ended(self, ticket: Ticket) -> None:
        """A request has ended, begun or not: its memory is there for others."""
        self._in_tokens.pop(ticket, None)
        self._room.give_back(ticket)
        self._has_changed = True

    def clear(self) -> None:
        """Let nobody wait any more."""
        self._tickets.clear()
