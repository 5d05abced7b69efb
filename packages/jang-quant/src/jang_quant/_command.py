"""The command that repeats a conversion, without what is only true of this machine."""

import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final

from jang_quant._calibration.run import SELF
from jang_quant._request import NO_CALIBRATION, Request

# In the order of `jang-quant convert --help`.
_OPTIONS: Final = {
    "profile": "--profile",
    "profile_table": "--profile-table",
    "bits": "--bits",
    "size": "--size",
    "fit_memory": "--fit-memory",
    "context": "--context",
    "method": "--method",
    "calibration": "--calibration",
    "group_size": "--group-size",
    "layout": "--layout",
}


def command_of(source_name: str, request: Request) -> str:
    """The command line of `jang-quant convert` for a request, the output named OUT.

    Defaults are left out, and files are named without their directory.

    Args:
        source_name: The source's name for people.
        request: What is asked for.
    """
    return shlex.join(["jang-quant", "convert", source_name, "OUT", *_options(request)])


def _options(request: Request) -> Iterator[str]:
    defaults = {field.name: field.default for field in fields(Request)}
    for name, option in _OPTIONS.items():
        value = getattr(request, name)
        if value != defaults[name]:
            yield option
            yield _calibration(value) if name == "calibration" else str(value)


def _calibration(text: str) -> str:
    return text if text in (SELF, NO_CALIBRATION) else Path(text).name
