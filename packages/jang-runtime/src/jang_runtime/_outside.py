"""What comes from outside while requests run: what their callers decide, and the time."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from jang_runtime._tickets import Ticket


@dataclass(frozen=True)
class Outside:
    """What is so at the begin of a step; where several processes run a model, rank 0 says it.

    Attributes:
        cancelled: Requests that are to end.
        expired: Requests whose time is over.
        blocked: Requests whose listeners take no large results now.
    """

    cancelled: Collection[Ticket]
    expired: Collection[Ticket]
    blocked: Collection[Ticket]


def look_at(tickets: Collection[Ticket]) -> Outside:
    """What is so now for open requests."""
    now = time.monotonic()
    return Outside(
        cancelled=[ticket for ticket in tickets if ticket.is_cancelled()],
        expired=[ticket for ticket in tickets if ticket.deadline <= now],
        blocked={ticket for ticket in tickets if not ticket.has_room()},
    )


def seconds_to_deadline(tickets: Collection[Ticket]) -> float | None:
    """Until the first of open requests has no time left; None if all have as much as they like."""
    first = min((ticket.deadline for ticket in tickets), default=float("inf"))
    return None if first == float("inf") else max(first - time.monotonic(), 0.0)
