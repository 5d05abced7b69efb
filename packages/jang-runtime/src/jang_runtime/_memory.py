"""How much memory this process has held; imports nothing of ours, for programs that must not."""

import re
import resource
import sys
from pathlib import Path


def resident_peak() -> int:
    """The most bytes of memory that were resident at a time."""
    if sys.platform == "linux":
        # Not ru_maxrss: Linux counts there what the process that started this one held.
        status = Path("/proc/self/status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
