"""The command `report`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jang_eval._commands.command_line import given_command
from jang_eval._commands.ending import ending_in_order
from jang_eval._commands.humaneval import choose_sandbox
from jang_eval._commands.options import (
    CommitOption,
    JsonOption,
    QuestionsOption,
    SeedOption,
    bytes_of,
)
from jang_eval._commands.running import show_progress
from jang_eval._documents import document_text
from jang_eval._errors import OptionError
from jang_eval._hub import HUMANEVAL, MMLU, local_data, local_texts
from jang_eval._protocol.candidates import Candidate, candidates
from jang_eval._protocol.pages import Making, bring_report_together, report_document, write_pages
from jang_eval._protocol.programs import find_program
from jang_eval._protocol.project import Data, Project, Sizes, check_sizes, left_out, measures
from jang_eval._protocol.running import run_protocol
from jang_eval._target import check_timeout
from jang_eval._tasks.qa_questions import load_questions, read_questions
from jang_eval._tasks.speed import Load


def report(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="What is converted, as jang-quant takes it: a directory, a GGUF file, a hub id, "
            "or smollm2.",
        ),
    ],
    work: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where models, results and pages go; the same command goes on from what is there.",
        ),
    ],
    profiles: Annotated[
        str, typer.Option(metavar="P,P,…", help="Profiles to convert to, such as 4M,3M,2S.")
    ] = "",
    bits: Annotated[
        str, typer.Option(metavar="B,B,…", help="Bits per weight to convert to, such as 2.5,3.5.")
    ] = "",
    directory: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="A model that is there; may be given several times."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The model to compare with, as it is if it is a directory, else at 8 bits in "
            "groups of 32. Default: the same SOURCE.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="rtn|mse|gptq", help="Passed to jang-quant convert.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE|self", help="Passed to jang-quant convert.")
    ] = None,
    mmlu: Annotated[
        Path | None, typer.Option(metavar="PATH|hub:ID", help="MMLU, as `mmlu` takes it.")
    ] = None,
    humaneval: Annotated[
        Path | None, typer.Option(metavar="PATH|hub:ID", help="HumanEval, as `humaneval` takes it.")
    ] = None,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution",
            help="Run what models write for HumanEval, in a sandbox; it is left out otherwise.",
        ),
    ] = False,
    weak_sandbox: Annotated[
        bool, typer.Option("--weak-sandbox", help="See `humaneval --help`.")
    ] = False,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|hub:ID", help="For KL and perplexity; may be given several times."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For logit-mse, one a line. Default: the six questions of qa."
        ),
    ] = None,
    questions: QuestionsOption = None,
    subset: Annotated[
        str, typer.Option(metavar="SxQ", help="Subjects of MMLU, and questions of each.")
    ] = Sizes.subset,
    shots: Annotated[int, typer.Option(metavar="N", help="Of MMLU.")] = Sizes.shots,
    limit: Annotated[int, typer.Option(metavar="N", help="Problems of HumanEval.")] = Sizes.limit,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Of each answer of qa.")
    ] = Sizes.max_tokens,
    window: Annotated[
        int, typer.Option(metavar="TOKENS", help="Windows of KL and perplexity.")
    ] = Sizes.window,
    windows: Annotated[
        int, typer.Option(metavar="N", help="So many, spread evenly over the text.")
    ] = Sizes.windows,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", help="Of speed.")] = Load.prompt_tokens,
    decode_tokens: Annotated[int, typer.Option(metavar="N", help="Of speed.")] = Load.decode_tokens,
    streams: Annotated[int, typer.Option(metavar="N", help="Of speed.")] = Load.streams,
    rounds: Annotated[int, typer.Option(metavar="N", help="Of speed.")] = Load.rounds,
    max_size: Annotated[
        float,
        typer.Option(
            metavar="GB",
            help="The most that the reference's logits may take, of texts and of prompts each.",
        ),
    ] = 10.0,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Of the servers, on the CPU.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for one answer.")
    ] = 600.0,
    seed: SeedOption = 0,
    commit: CommitOption = "",
    as_json: JsonOption = False,
) -> None:
    """Convert, serve and judge one model in several sizes, and write report.md and report.html.

    Servers run one at a time. What is there already is not done again; results of another model,
    task version, data or settings are made anew. What fails is named, and the rest goes on; the
    exit status is then 1.
    """
    sizes = Sizes(
        subset=subset,
        shots=shots,
        limit=limit,
        max_tokens=max_tokens,
        window=window,
        windows=windows,
        load=Load(prompt_tokens, decode_tokens, streams, rounds),
        seed=seed,
    )
    check_sizes(sizes)
    check_timeout(timeout)
    max_bytes = bytes_of(max_size)
    sandbox = None
    if humaneval is not None and allow_code_execution:
        sandbox = choose_sandbox(weak_sandbox)
        _say(sandbox.description)
    models = candidates(
        source,
        work / "models",
        profiles=_listed(profiles),
        bits=_numbers(bits),
        directories=[_named(each) for each in directory or ()],
        reference=reference,
        method=_method(method, calibration),
    )
    judged_by = load_questions() if questions is None else read_questions(questions)
    with ExitStack() as stack:
        project = Project(
            candidates=tuple(models),
            work=work,
            data=Data(
                mmlu and stack.enter_context(local_data(mmlu, MMLU)),
                humaneval and stack.enter_context(local_data(humaneval, HUMANEVAL)),
                sandbox,
                stack.enter_context(local_texts(text or ())),
                prompts,
                judged_by,
            ),
            sizes=sizes,
            reference_bytes=max_bytes,
            timeout=timeout,
            threads=threads,
        )
        asked = measures(project)
        find_program("jang-runtime")
        if any(each.source is not None and not each.directory.is_dir() for each in models):
            find_program("jang-quant")
        stack.enter_context(ending_in_order())
        done = run_protocol(project, asked, _say, show_progress)
    overview = bring_report_together(done)
    notes = [_reference_note(models[0]), *_method_notes(method, calibration, models)]
    notes += left_out(project.data)
    title = f"{_name(source)}: what is left of it"
    making = Making(given_command(context), commit)
    write_pages(overview, work, title, notes, done.failures, making)
    _say(f"wrote {work / 'report.md'}" + (f" and {work / 'report.html'}" if overview else ""))
    if as_json:
        text_of_all = document_text(report_document(overview, notes, done.failures, making))
        typer.echo(text_of_all.encode(), nl=False)
    else:
        typer.echo((work / "report.md").read_bytes(), nl=False)
    if done.failures:
        named = ", ".join(f"{each.model} ({each.step})" for each in done.failures)
        _say(f"error: {len(done.failures)} of the steps failed: {named}")
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in _listed(text)]
    except ValueError as error:
        raise OptionError(f"bits: found {text!r}, expected numbers such as 2.5,3.5") from error


def _named(text: str) -> tuple[str, Path]:
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise OptionError(f"directory: found {text!r}, expected NAME=DIR")
    return name, Path(directory)


def _method(method: str | None, calibration: str | None) -> list[str]:
    options = (("--method", method), ("--calibration", calibration))
    return [word for name, value in options if value is not None for word in (name, value)]


def _name(source: str) -> str:
    # "." has a name too.
    return Path(source).resolve().name


def _reference_note(candidate: Candidate) -> str:
    if candidate.source is not None:
        return f"The reference is {_name(candidate.source)} converted to 8 bits in groups of 32."
    return f"The reference is {candidate.directory.resolve().name}, served as it is."


def _method_notes(
    method: str | None, calibration: str | None, models: list[Candidate]
) -> list[str]:
    if not any(each.source is not None for each in models[1:]):
        return []
    text = f", calibrated on {Path(calibration).name}" if calibration else ""
    return [f"Profiles and bits are conversions with the method {method or 'rtn'}{text}."]
