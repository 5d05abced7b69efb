"""How the C library hands out memory while a model is converted.

Arrays of one size come and go, module after module. glibc gives each large one back to the system
and asks for it anew, and the system clears it page by page, which took a third of the time. Kept,
the same pages serve again; the most memory in use stays the same.
"""

import ctypes
import sys
from typing import Final

# From malloc.h: when to give memory back, and how many arrays may have pages of their own.
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees; does nothing without glibc."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, -1)
    mallopt(_MMAP_MAX, 0)
