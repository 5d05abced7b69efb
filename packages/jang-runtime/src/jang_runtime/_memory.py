"""How much memory this process holds, has held, and could take; imports nothing of ours.

Programs that must not import us run it as a file.
"""

import ctypes
import re
import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")


def resident_peak() -> int:
    """The most bytes of memory that were resident at a time."""
    # Not ru_maxrss: Linux counts there what the process that started this one held.
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident() -> int:
    """Bytes of memory that are resident; where the system does not tell, the most that were."""
    return _status_bytes("VmRSS") or resident_peak()


def give_back() -> None:
    """Give memory that the C library keeps for reuse back to the system, where the library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def half_of_free_memory(backend: str) -> int:
    """Half of the bytes that this process could still take where a backend computes.

    Args:
        backend: "cpu", "metal" or "cuda".
    """
    return max(1, _free(backend) // 2)


@contextmanager
def weights_wired() -> Generator[None]:
    """Keep weights from being paged out between passes where that can be, on Metal."""
    import mlx.core as mx  # only where a model runs
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    before = maybe_set_recommended_wired_limit()
    try:
        yield
    finally:
        if before is not None:
            mx.set_wired_limit(before)


def _free(backend: str) -> int:
    import mlx.core as mx  # only where a model runs

    if backend != "cpu":
        facts = mx.device_info()
        limit = facts.get("max_recommended_working_set_size") or facts["memory_size"]
        free = facts.get("free_memory", int(limit) - mx.get_active_memory())
        return int(free)
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _text(Path("/proc/meminfo")), re.MULTILINE)
    free = int(found[1]) * 1024 if found else int(mx.device_info()["memory_size"])
    limit, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def _status_bytes(key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB$", _text(Path("/proc/self/status")), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _text(path: Path) -> str:
    """The text of a file of the system; empty where the system has none."""
    return path.read_text() if sys.platform == "linux" and path.exists() else ""
