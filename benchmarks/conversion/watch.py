"""Runs one command and says what it took: `python -I watch.py LIMIT LOG COMMAND …`.

A process of its own and of the standard library alone, for every run: Linux counts the memory of
the process that starts another as the other's peak. Prints one JSON object.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

INTERVAL = 0.01
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def anonymous_bytes(pid: int) -> int:
    """Resident memory of a process now that is no file's; 0 where the system does not say."""
    try:
        found = re.search(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def watch(command: list[str], limit: float, log: Path) -> dict[str, float | int | bool]:
    """Run a command, with its output in `log`; kill it and what it started after `limit` seconds.

    Returns:
        Wall and processor seconds, the peak of resident memory as the kernel counts it, the peak
        of what is no file's as polled, the exit status, and whether it was killed.
    """
    started = time.monotonic()
    peak, killed = 0, False
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True
        )
        while True:
            peak = max(peak, anonymous_bytes(process.pid))
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not killed and time.monotonic() - started > limit:
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
            time.sleep(INTERVAL)
        seconds = time.monotonic() - started
    return {
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "resident": used.ru_maxrss * _MAXRSS_BYTES,
        "anonymous": peak,
        "status": os.waitstatus_to_exitcode(status),
        "killed": killed,
    }


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[3:], float(sys.argv[1]), Path(sys.argv[2]))))
