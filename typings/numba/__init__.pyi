from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

def njit(
    *, cache: bool = ..., parallel: bool = ..., fastmath: bool | set[str] = ..., inline: str = ...
) -> Callable[[F], F]: ...

prange = range

def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...

class config:
    NUMBA_NUM_THREADS: int
