"""Converted models, kept under $JANG_HOME so that each is converted once."""

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Final

from jang_format import PARTIAL_SUFFIX
from jang_quant import Plan, Source
from jang_quant import __version__ as quant_version

# A conversion that was killed leaves its hidden directory behind; none takes this long.
_STALE_SECONDS: Final = 24 * 3600


def cache_home() -> Path:
    """$JANG_HOME, or ~/.cache/jang."""
    home = os.environ.get("JANG_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "jang"


def cached_path(source: Source, plan: Plan) -> Path:
    """Where the conversion of a source by a plan is kept.

    The name changes with the source's bytes, with what the plan gives any module, and with the
    version of jang-quant.
    """
    modules = [(module.path, module.bits, module.group_size) for module in plan.modules]
    key = json.dumps([source.fingerprint, modules, quant_version])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    readable = re.sub(r"[^\w.-]+", "-", f"{source.name}-{plan.name}")
    return cache_home() / "models" / f"{readable}-{digest}"


def remove_stale_partials() -> None:
    """Remove what conversions left behind that were killed long ago."""
    for partial in (cache_home() / "models").glob(f".*{PARTIAL_SUFFIX}"):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)
