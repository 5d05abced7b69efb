"""The load test of benchmarks/service_load.py, short: real sockets, a real server process."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "service_load.py"


def test_random_requests_have_one_fitting_end_each_and_leave_nothing_behind(
    tiny_model: Path, tmp_path: Path
) -> None:
    # So few requests do not show what a server's memory tends to.
    size = ["--warm-up", "60", "--requests", "300", "--parts", "1", "--tolerance", "1"]
    result = subprocess.run(
        [sys.executable, SCRIPT, "--model", tiny_model, "--work", tmp_path, "--json", *size],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout, result.stderr
    found = json.loads(result.stdout)
    assert found["complaints"] == []
    assert result.returncode == 0, result.stderr
    assert found["requests"] == 360
    assert sum(sum(counts.values()) for counts in found["outcomes"].values()) == 360
    # Nothing of it is proved by requests that were all refused.
    groups = {"plain", "cancelled by client", "aborted", "deadline", "malformed", "stalled reader"}
    assert groups <= set(found["outcomes"])
    assert found["outcomes"]["aborted"]["OK CANCELLED"] > 0
    assert found["outcomes"]["cancelled by client"]["CANCELLED"] > 0
    assert found["outcomes"]["plain"]["OK MAX_TOKENS"] > 0
