"""This checkout: what of the code is measured."""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def checked_out_commit() -> str:
    """The commit, with "-dirty" where files differ from it; "unknown" where git cannot be asked."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
