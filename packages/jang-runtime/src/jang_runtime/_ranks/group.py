"""How the ranks agree.

Every rank calls the same methods in the same order, in the thread that owns MLX: the sums of a
model go through the same connections, and two collectives at a time would mix their bytes.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Protocol

import mlx.core as mx
import numpy as np

from jang_format import first_line
from jang_runtime._errors import EngineStoppedError

# Set for each process by mlx.launch, Open MPI, and other MPIs.
_RANK_VARIABLES: Final = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
# The file of the ring's addresses; mlx.launch -n 1 writes nothing into it.
_HOSTS_VARIABLE: Final = "MLX_HOSTFILE"
# A notice is a digest of what its rank has decided so far, the length of rank 0's message, and the
# message's beginning; most end in it.
_DIGEST_BYTES: Final = 16
_NOTICE_BYTES: Final = 1024
_HEAD: Final = struct.Struct(f"<{_DIGEST_BYTES}sQ")
_BEGINNING_BYTES: Final = _NOTICE_BYTES - _HEAD.size
# MLX's ring takes a whole processor core while it waits, so ranks with nothing to do meet seldom.
_SHORTEST_REST: Final = 0.001
_LONGEST_REST: Final = 0.05


class Ranks(Protocol):
    """The processes that run one model, as rank 0 knows them."""

    @property
    def size(self) -> int:
        """How many."""
        ...

    def rest(self, idle_steps: int) -> float | None:
        """Seconds until ranks with nothing to do meet again; None if they need not."""
        ...

    def tell(self, decided: Callable[[], bytes], message: Callable[[], bytes]) -> None:
        """Send rank 0's message to the others.

        Raises:
            EngineStoppedError: If ranks have not decided the same so far, or one is lost.
        """
        ...

    def largest(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """For each number the largest one of all ranks."""
        ...

    def of_first(self, tokens: mx.array) -> mx.array:
        """Rank 0's tokens, lazily: other processors may round logits otherwise."""
        ...

    def fault(self, error: Exception) -> None:
        """Something failed that no rank can know to have failed on all of them.

        Raises:
            EngineStoppedError: If there are others.
        """
        ...


@dataclass(frozen=True)
class OneRank:
    """A process alone agrees with itself; methods as in `Ranks`."""

    size: int = 1

    def rest(self, idle_steps: int) -> float | None:
        """Until something happens."""
        return None

    def tell(self, decided: Callable[[], bytes], message: Callable[[], bytes]) -> None:
        """There is nobody to tell."""

    def largest(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The numbers."""
        return tuple(numbers)

    def of_first(self, tokens: mx.array) -> mx.array:
        """The tokens."""
        return tokens

    def fault(self, error: Exception) -> None:
        """A request that fails fails alone."""


ONE_RANK: Final = OneRank()


@dataclass(frozen=True)
class LaunchedRanks:
    """The processes that a launcher started; methods as in `Ranks`, and those for the beginning."""

    group: mx.distributed.Group

    @property
    def rank(self) -> int:
        """The number of this process; 0 is the one that serves."""
        return self.group.rank()

    @property
    def size(self) -> int:
        """How many."""
        return self.group.size()

    def rest(self, idle_steps: int) -> float:
        """Longer the longer nothing happens."""
        return min(_LONGEST_REST, _SHORTEST_REST * (1 + idle_steps))

    def tell(self, decided: Callable[[], bytes], message: Callable[[], bytes]) -> None:
        """Send rank 0's message to the others.

        Raises:
            EngineStoppedError: If ranks have not decided the same so far, or one is lost.
        """
        self._exchange(decided(), message())

    def hear(self, decided: bytes) -> bytes:
        """Receive rank 0's message; errors as for `tell`."""
        return self._exchange(decided, b"")

    def gather(self, content: bytes) -> list[bytes]:
        """What each rank gives, all of one length, by rank.

        Raises:
            EngineStoppedError: If one of them is lost.
        """
        own = mx.array(np.frombuffer(content, np.uint8))
        every = self._bytes(mx.distributed.all_gather(own, group=self.group))
        return [every[n : n + len(content)] for n in range(0, len(every), len(content))]

    def largest(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """For each number the largest one of all ranks."""
        form = struct.Struct(f"<{len(numbers)}q")
        every = [form.unpack(each) for each in self.gather(form.pack(*numbers))]
        return tuple(max(column) for column in zip(*every, strict=True))

    def of_first(self, tokens: mx.array) -> mx.array:
        """Rank 0's tokens, lazily."""
        # Not zeros made anew: the pass behind the tokens has to run on every rank.
        own = tokens if self.rank == 0 else tokens * 0
        return mx.distributed.all_sum(own, group=self.group)

    def fault(self, error: Exception) -> None:
        """End the engine: other ranks may have gone on.

        Raises:
            EngineStoppedError: Always.
        """
        _stop(f"rank {self.rank} of {self.size} failed: {error}", error)

    def loss(self, why: object) -> EngineStoppedError:
        """What ends this rank when another one is gone."""
        message = f"rank {self.rank} of {self.size} has lost another one: {why}"
        return EngineStoppedError(f"the engine has stopped: {message}")

    def _exchange(self, decided: bytes, message: bytes) -> bytes:
        digest = hashlib.blake2b(decided, digest_size=_DIGEST_BYTES).digest()
        own = _HEAD.pack(digest, len(message)) + message[:_BEGINNING_BYTES]
        notices = self.gather(own.ljust(_NOTICE_BYTES, b"\0"))
        expected, length = _HEAD.unpack_from(notices[0])
        for rank, notice in enumerate(notices):
            if notice[:_DIGEST_BYTES] != expected:
                _stop(f"rank {rank} has not decided what rank 0 has; they cannot go on together")
        beginning = notices[0][_HEAD.size : _HEAD.size + length]
        rest = length - len(beginning)
        return beginning if rest == 0 else beginning + self._rest_of(message, rest)

    def _rest_of(self, message: bytes, length: int) -> bytes:
        """The last bytes of rank 0's message; every rank knows how many."""
        own = message[-length:] if self.rank == 0 else bytes(length)
        values = mx.array(np.frombuffer(own, np.uint8))
        return self._bytes(mx.distributed.all_sum(values, group=self.group))

    def _bytes(self, received: mx.array) -> bytes:
        try:
            # Not left to the conversion, which swallows what the ring says.
            mx.eval(received)  # pyright: ignore[reportUnknownMemberType] - open in the stubs
        except RuntimeError as error:
            raise self.loss(error) from error
        return np.array(received).tobytes()


def _stop(message: str, error: Exception | None = None) -> NoReturn:
    raise EngineStoppedError(f"the engine has stopped: {message}") from error


def launched_rank() -> int | None:
    """The number that a launcher gave to this process; None if it has started no other."""
    found = next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), "")
    hosts = os.environ.get(_HOSTS_VARIABLE)
    if not found.isdecimal() or (hosts is not None and not Path(hosts).read_text().strip()):
        return None
    return int(found)


def connect() -> "OneRank | LaunchedRanks":
    """Wait for the other ranks, in the thread that will own MLX.

    Raises:
        EngineStoppedError: If they cannot be reached.
    """
    if launched_rank() is None:
        return ONE_RANK
    try:
        group = mx.distributed.init(strict=True)
    except RuntimeError as error:
        _stop(f"the ranks do not come together: {first_line(error)}", error)
    return LaunchedRanks(group) if group.size() > 1 else ONE_RANK
