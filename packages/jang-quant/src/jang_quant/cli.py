"""The command `jang-quant`."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jang_format import JangFormatError, LayoutName, check_picture, draw
from jang_format.terminal import print_event, print_json, user_errors
from jang_quant._allocation import keep_freed_memory
from jang_quant._calibration.run import SELF
from jang_quant._calibration.store import SUFFIX
from jang_quant._calibration.texts import DEFAULT_LENGTH, DEFAULT_SEQUENCES
from jang_quant._command import command_of
from jang_quant._convert import refuse_output, refuse_taken
from jang_quant._errors import ConversionError, JangQuantError
from jang_quant._messages import FOR_PEOPLE, FOR_PROGRAMS, Messages, print_plan
from jang_quant._picture import plan_summary
from jang_quant._plan import DEFAULT_GROUP_SIZE, Origin
from jang_quant._profiles import DEFAULT_PROFILE, Profile, ProfileTable, profiles
from jang_quant._quantize import MethodName, Recipe, use_threads
from jang_quant._report import conversion_document, estimates, plan_document
from jang_quant._request import (
    Prepared,
    Request,
    asked_of,
    check,
    needs_calibration,
    prepare,
)
from jang_quant._result import print_result
from jang_quant._sources.resolve import open_source
from jang_quant._sources.source import Source
from jang_quant._work import work_folder
from jang_quant.progress import (
    calibrate_with_progress,
    convert_with_progress,
    prepare_with_progress,
)
from jang_runtime.blas import blas_in_use
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
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="Which bits each role gets; see `profiles`. JANG_2K to JANG_6K are budgets.  "
        f"[default: {DEFAULT_PROFILE}]",
    ),
]
ProfileTableOption = Annotated[
    ProfileTable,
    typer.Option("--profile-table", help="Whose table: ours, or that of the published package."),
]
BitsOption = Annotated[
    float | None,
    typer.Option("--bits", "-b", help="Bits per weight in all, instead of a profile: 3.1."),
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", "-s", help="Size of the weight files, instead of a profile: 38GB."),
]
FitMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--fit-memory",
        help="Memory that the running model may take, instead of a profile: 64GB. Weights, the "
        "cache of --context tokens and workspace fit into it.",
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context",
        min=1,
        help="Tokens of prompt and answer that --fit-memory has room for.",
        show_default="what the model allows, at most 4096",
    ),
]
MethodOption = Annotated[
    MethodName, typer.Option("--method", "-m", help="How weights are rounded; gptq is the best.")
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="FILE|self|none",
        help="Text that is run through the model: a file, or what the model writes itself; or a "
        "file of `calibrate`.  "
        "[default: self, none with rtn]",
    ),
]
GroupSizeOption = Annotated[
    int, typer.Option("--group-size", "-g", help="Weights that share a scale: 32, 64 or 128.")
]
LayoutOption = Annotated[
    LayoutName,
    typer.Option("--layout", help="mlx, which MLX programs load, or blocks, for block readers."),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Processor cores to use; all, if not given."),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume", help="Take up the work of the same command that was broken off."
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document; what happens meanwhile is JSON lines on stderr."
    ),
]


@app.command(epilog="Example: jang-quant plan smollm2 --bits 3.5 --plot bits.png")
def plan(
    source: SourceArgument,
    profile: ProfileOption = None,
    profile_table: ProfileTableOption = "jang",
    bits: BitsOption = None,
    size: SizeOption = None,
    fit_memory: FitMemoryOption = None,
    context: ContextOption = None,
    calibration: CalibrationOption = None,
    group_size: GroupSizeOption = DEFAULT_GROUP_SIZE,
    layout: LayoutOption = "mlx",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw bits and bytes of each module: .png, .svg."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a conversion would give: bits, group size and bytes of every module."""
    request = Request(
        profile,
        bits,
        size,
        "rtn",
        calibration,
        group_size,
        profile_table=profile_table,
        layout=layout,
        fit_memory=fit_memory,
        context=context,
    )
    messages = FOR_PROGRAMS if as_json else FOR_PEOPLE
    with messages.errors(JangQuantError, JangFormatError):
        if plot is not None:
            check_picture(plot)
        opened = _open(source, request, messages)
        with TemporaryDirectory() as folder:
            prepared = _prepare(opened, request, Path(folder), messages)
        if plot is not None:
            draw(plan_summary(opened, prepared.plan), plot)
        if as_json:
            print_json(plan_document(opened, prepared.plan) | estimates(prepared))
        else:
            print_plan(opened, prepared, Console())


@app.command(
    epilog="Examples: jang-quant convert smollm2 ./smollm2-3.5 --bits 3.5 --method gptq; "
    "jang-quant convert Qwen/Qwen3-32B ./fits --fit-memory 24GB --context 16384"
)
def convert(
    source: SourceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.")],
    profile: ProfileOption = None,
    profile_table: ProfileTableOption = "jang",
    bits: BitsOption = None,
    size: SizeOption = None,
    fit_memory: FitMemoryOption = None,
    context: ContextOption = None,
    method: MethodOption = "rtn",
    calibration: CalibrationOption = None,
    group_size: GroupSizeOption = DEFAULT_GROUP_SIZE,
    layout: LayoutOption = "mlx",
    jobs: JobsOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
) -> None:
    """Convert a model and write it so that every MLX program loads it, with a model card."""
    request = Request(
        profile,
        bits,
        size,
        method,
        calibration,
        group_size,
        profile_table=profile_table,
        layout=layout,
        fit_memory=fit_memory,
        context=context,
    )
    messages = FOR_PROGRAMS if as_json else FOR_PEOPLE
    with messages.errors(JangQuantError, JangFormatError):
        use_threads(jobs)
        refuse_taken(out)
        opened = _open(source, request, messages)
        refuse_output(opened, out)
        with work_folder(out, asked_of(opened, request), resume=resume) as folder:
            prepared = _prepare(opened, request, folder, messages)
            messages.planned(opened, prepared)
            recipe = Recipe(method, prepared.calibration)
            origin = Origin(command_of(opened.name, request), prepared.damage)
            planned = replace(prepared.plan, origin=origin)
            keep_freed_memory()
            conversion = convert_with_progress(
                opened, out, planned, recipe, folder, messages.converting
            )
        if as_json:
            print_event("done", out=str(out), seconds=conversion.seconds)
            document = conversion_document(opened, conversion)
            print_json(document | {"method": method} | estimates(prepared))
        else:
            print_result(conversion, Console())


@app.command("calibrate", epilog="Example: jang-quant calibrate smollm2 smollm2.safetensors")
def calibrate_command(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write, which ends in .safetensors.")
    ],
    text: Annotated[
        str,
        typer.Option(metavar="FILE|self", help="Text, or JSON lines with `text`; or the model's."),
    ] = SELF,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences of text.")] = DEFAULT_SEQUENCES,
    length: Annotated[int, typer.Option(min=2, help="Tokens of each.")] = DEFAULT_LENGTH,
) -> None:
    """Run text through a model once and keep what its modules see, for many conversions."""
    request = Request(calibration=text, sequences=sequences, length=length)
    with user_errors(JangQuantError, JangFormatError):
        if out.suffix != SUFFIX:
            raise ConversionError(f"OUT: found {out}, expected a name that ends in {SUFFIX}")
        quiet_libraries()
        FOR_PEOPLE.multiplying(blas_in_use())
        if text.endswith(SUFFIX):
            raise ConversionError(f"--text: found {text}, expected a text")
        opened = open_source(source)
        refuse_output(opened, out)
        calibration = calibrate_with_progress(opened, request, out)
        typer.echo(f"wrote {out}: {calibration.text.tokens.size:,} tokens")


@app.command("profiles", epilog="Example: jang-quant profiles --json")
def profiles_command(as_json: JsonOption = False) -> None:
    """List the profiles: bits for each role."""
    if as_json:
        typer.echo(
            json.dumps(
                [{"name": p.name, "family": p.family, "bits": p.bits} for p in profiles()], indent=2
            )
        )
        return
    table = Table(title="bits by role", title_justify="left")
    for heading in ("profile", *_ROLES):
        table.add_column(heading, justify="left" if heading == "profile" else "right")
    previous: Profile | None = None
    for profile in profiles():
        if previous is not None and previous.family != profile.family:
            table.add_section()
        table.add_row(profile.title, *(str(profile.bits[role]) for role in _ROLES))
        previous = profile
    Console().print(table)


_ROLES = ("mlp", "attention", "embedding", "head")


def _open(source: str, request: Request, messages: Messages) -> Source:
    quiet_libraries()
    check(request)
    messages.opening()
    return open_source(source)


def _prepare(source: Source, request: Request, folder: Path, messages: Messages) -> Prepared:
    if needs_calibration(request):
        messages.multiplying(blas_in_use())
        return prepare_with_progress(source, request, folder, messages.calibrating)
    return prepare(source, request, folder)


if __name__ == "__main__":
    app()
