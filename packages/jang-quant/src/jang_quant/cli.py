"""The command `jang-quant`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jang_format.terminal import user_errors
from jang_quant._convert import plan_source, refuse_output
from jang_quant._errors import JangQuantError
from jang_quant._plan import Plan
from jang_quant._profiles import DEFAULT_PROFILE, Profile, find_profile, profiles
from jang_quant._report import conversion_document, plan_document, plan_headline, plan_table
from jang_quant._sources.resolve import open_source
from jang_quant._sources.source import Source
from jang_quant.progress import convert_with_progress
from jang_runtime.terminal import quiet_libraries

app = typer.Typer(
    help="Convert language models to JANG.", no_args_is_help=True, rich_markup_mode="rich"
)

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A directory, a GGUF file, a hub id, or the name smollm2."
    ),
]
ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="Which bits each role gets; see `profiles`.")
]
GroupSizeOption = Annotated[
    int, typer.Option("--group-size", "-g", help="Weights that share a scale: 32, 64 or 128.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command(epilog="Example: jang-quant plan smollm2 --profile JANG_4M")
def plan(
    source: SourceArgument,
    profile: ProfileOption = DEFAULT_PROFILE,
    group_size: GroupSizeOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Say what a conversion would give: bits, group size and bytes of every module."""
    with user_errors(JangQuantError):
        opened, made = _open_and_plan(source, profile, group_size)
        if as_json:
            _print_json(plan_document(opened, made))
        else:
            _print_plan(opened, made, Console())


@app.command(epilog="Example: jang-quant convert smollm2 ./smollm2-4M --profile JANG_4M")
def convert(
    source: SourceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.")],
    profile: ProfileOption = DEFAULT_PROFILE,
    group_size: GroupSizeOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Convert a model and write it so that every MLX program loads it."""
    with user_errors(JangQuantError):
        opened, made = _open_and_plan(source, profile, group_size)
        refuse_output(opened, out)
        _print_plan(opened, made, Console(stderr=True))
        conversion = convert_with_progress(opened, out, made)
        if as_json:
            _print_json(conversion_document(opened, conversion))
        else:
            typer.echo(
                f"wrote {out}: {conversion.weight_bytes:,} bytes of weights, "
                f"{made.bits_per_weight:.3f} bits per weight, {conversion.seconds:.1f} s"
            )


@app.command("profiles", epilog="Example: jang-quant profiles --json")
def profiles_command(as_json: JsonOption = False) -> None:
    """List the profiles: bits for each role."""
    if as_json:
        _print_json([{"name": p.name, "family": p.family, "bits": p.bits} for p in profiles()])
        return
    table = Table(title="bits by role", title_justify="left")
    for heading in ("profile", *_ROLES):
        table.add_column(heading, justify="left" if heading == "profile" else "right")
    previous: Profile | None = None
    for profile in profiles():
        if previous is not None and previous.family != profile.family:
            table.add_section()
        table.add_row(profile.name, *(str(profile.bits[role]) for role in _ROLES))
        previous = profile
    Console().print(table)


_ROLES = ("mlp", "attention", "embedding", "head")


def _open_and_plan(source: str, profile: str, group_size: int) -> tuple[Source, Plan]:
    quiet_libraries()
    wanted = find_profile(profile)
    opened = open_source(source)
    return opened, plan_source(opened, wanted, group_size)


def _print_plan(source: Source, made: Plan, console: Console) -> None:
    # soft_wrap leaves the line whole where the output is a file.
    console.print(plan_headline(source, made), soft_wrap=True, highlight=False)
    console.print(plan_table(made))


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    app()
