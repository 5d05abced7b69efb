"""A page of results from the records of benchmarks."""

from collections.abc import Iterator, Sequence
from typing import Final

from jang_runtime._bench_record import BenchRecord, ProgramRecord, times_as_good
from jang_runtime._bench_report import described, measure_name

EXPLANATION: Final = """
Each cell: the median of all runs, the lowest and the highest, and how many times as good ours is.
Every run is a process of its own, the programs in turn, files in the page cache. Speeds are tokens
a second; of a prompt, from the request to its first token; of decoding, from the first token of any
request to the last of all, 16 tokens of prompt before it. Start to first token has the start of
Python and the imports, and a prompt of 16 tokens. Prompts are random tokens, the same for all.
"""


def page(
    title: str, introduction: str, command: str, records: Sequence[BenchRecord], commit: str
) -> str:
    """The whole page.

    Args:
        title: Its heading.
        introduction: What was measured, in Markdown.
        command: What was typed.
        records: A table each.
        commit: Of this repository.
    """
    where = records[0].conditions
    versions = ", ".join(f"{name} {number}" for name, number in where.versions.items())
    lines = [
        f"# {title}",
        "",
        "Written by",
        "",
        f"    {command}",
        "",
        introduction.strip(),
        "",
        f"{where.processor}, {where.cores} cores, {where.system}, Python {where.python}, "
        f"{versions}, commit {commit}; {_facts(records[0])}.",
    ]
    for record in records:
        lines += ["", *_table(record)]
    return "\n".join(lines) + "\n" + EXPLANATION


def _facts(record: BenchRecord) -> str:
    return "; ".join(
        f"{each.program.name}: {', '.join(f'{key} {value}' for key, value in each.facts.items())}"
        for each in record.programs
    )


def _table(record: BenchRecord) -> Iterator[str]:
    model, options = record.model, record.options
    threads = "" if options.threads is None else f", {options.threads} threads"
    yield (
        f"{model['name']}, {model['bits_per_weight']:.3f} bits per weight, "
        f"{model['weight_bytes'] / 1e6:.0f} MB{threads}; {options.runs} runs, "
        f"{options.decode_tokens} tokens decoded."
    )
    for each in record.programs:
        if each.program.note:
            yield f"{each.program.name}: {each.program.note}."
    yield ""
    yield "| | " + " | ".join(each.program.name for each in record.programs) + " |"
    yield "|---|" + "---:|" * len(record.programs)
    for name in dict.fromkeys(name for each in record.programs for name in each.measures):
        cells = " | ".join(_cell(name, each, record.programs[0]) for each in record.programs)
        yield f"| {measure_name(name)} | {cells} |"


def _cell(name: str, program: ProgramRecord, ours: ProgramRecord) -> str:
    measure = program.measures.get(name)
    if measure is None:
        return ""
    if program is ours or name not in ours.measures:
        return described(measure)
    return f"{described(measure)}: {times_as_good(ours.measures[name], measure):.2f}"
