"""When a client asks again, for the blocking client and for asyncio."""

import random
import time
from dataclasses import dataclass
from typing import Final

from jang_runtime._errors import ClientOptionError, ServerError

# How much longer than the server's wish a wait can be, so that not all come back at once.
_LATER_BY: Final = 0.25


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after how long, a client asks again.

    Attributes:
        tries: How often it asks in all; 1 never asks again.
        first_delay: Seconds before the second try where the server names none, half of them by
            chance; doubled for each further one.
        longest_delay: It waits for this many seconds at most; a server that wishes for more is
            not asked again.

    Raises:
        ClientOptionError: If a number is out of range.
    """

    tries: int = 5
    first_delay: float = 0.2
    longest_delay: float = 30.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ClientOptionError(f"tries: found {self.tries}, expected 1 or more")
        if not 0 <= self.first_delay <= self.longest_delay:
            raise ClientOptionError(
                f"first_delay: found {self.first_delay:g}, "
                f"expected 0 to longest_delay, {self.longest_delay:g}"
            )


def retry_delay(
    policy: RetryPolicy,
    error: ServerError,
    attempt: int,
    *,
    remaining: float | None,
    jitter: float,
) -> float | None:
    """Seconds to wait before asking again, or None if the error is the answer.

    Args:
        policy: What the user wishes.
        error: How the last try ended.
        attempt: Which it was, counted from 1.
        remaining: Seconds until the deadline, which all tries share; None if there is none.
        jitter: A random number from 0 to 1.
    """
    if attempt >= policy.tries or not _may_pass(error):
        return None
    if error.retry_after is not None:
        if error.retry_after > policy.longest_delay:
            return None
        delay = error.retry_after * (1 + _LATER_BY * jitter)
    else:
        longest = min(policy.first_delay * 2 ** (attempt - 1), policy.longest_delay)
        delay = longest * (1 + jitter) / 2
    return delay if remaining is None or delay < remaining else None


def _may_pass(error: ServerError) -> bool:
    """Whether the same request could get another answer later.

    Of exhausted resources only those that come back have a time: memory that is too small, or a
    message that is too long, stays so.
    """
    if error.code == "RESOURCE_EXHAUSTED":
        return error.retry_after is not None
    return error.code == "UNAVAILABLE"


class Tries:
    """The tries of one call, which share one deadline.

    Args:
        policy: What the user wishes.
        timeout: Seconds for all of them; None for no deadline.
    """

    def __init__(self, policy: RetryPolicy, timeout: float | None) -> None:
        self._policy = policy
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._attempt = 0

    def begin(self) -> float | None:
        """Count a try, and return its timeout in seconds."""
        self._attempt += 1
        return self._remaining()

    def delay_after(self, error: ServerError) -> float:
        """Seconds to wait after a failed try.

        Raises:
            ServerError: `error`, if there is to be no other try.
        """
        delay = retry_delay(
            self._policy,
            error,
            self._attempt,
            remaining=self._remaining(),
            jitter=random.random(),
        )
        if delay is None:
            raise error
        return delay

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
