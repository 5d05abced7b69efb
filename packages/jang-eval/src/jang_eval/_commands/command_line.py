"""The command line as documents for others have it."""

import shlex
from pathlib import Path
from typing import cast

import typer

from jang_eval._documents import shown_path


def given_command(context: typer.Context) -> str:
    """The command with the options that were given, without directories of this machine."""
    words = ["jang-eval", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        # By its name: typer has a click of its own from some version on.
        if source is None or source.name != "COMMANDLINE":
            continue
        for value in _listed(context.params[name]):
            words += parameter.opts[:1] if parameter.param_type_name == "option" else []
            words += [] if isinstance(value, bool) else [_shown(value)]
    return shlex.join(words)


def _listed(value: object) -> list[object]:
    return list(cast("list[object]", value)) if isinstance(value, list | tuple) else [value]


def _shown(value: object) -> str:
    # The whole, or what a directory has a name for.
    name, equals, place = str(value).rpartition("=")
    is_path = "/" in place and (Path(place).is_absolute() or Path(place).exists())
    return f"{name}{equals}{shown_path(Path(place))}" if is_path else str(value)
