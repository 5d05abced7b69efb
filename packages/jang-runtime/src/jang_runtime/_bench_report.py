"""A benchmark's record as a table for people."""

from collections.abc import Iterator
from typing import Final

from rich.table import Table

from jang_runtime._bench_record import BYTES, SECONDS, BenchRecord, Measure

_NAMES: Final = {
    "load": "load",
    "first_token": "start to first token",
    "decode": "decode",
    "resident_peak": "peak of resident memory",
    "mlx_peak": "peak of what MLX holds",
}


def table(record: BenchRecord) -> Table:
    """One row for each measure, a column for each program, and the ratio to the best other one."""
    ratios = {ratio.measure: ratio for ratio in record.ratios()}
    found = Table(title=title(record), title_justify="left", caption=caption(record))
    found.add_column("")
    for each in record.programs:
        found.add_column(each.program.name, justify="right")
    if ratios:
        found.add_column("ratio", justify="right")
    for name in _measures(record):
        cells = [
            described(each.measures[name]) if name in each.measures else ""
            for each in record.programs
        ]
        if ratios:
            cells.append(f"{ratios[name].ratio:.2f}" if name in ratios else "")
        found.add_row(measure_name(name), *cells)
    return found


def title(record: BenchRecord) -> str:
    """What was measured where, in a line."""
    model, where = record.model, record.conditions
    facts = ", ".join(f"{key} {value}" for key, value in where.facts.items())
    threads = (
        "as many threads as they like" if where.threads is None else f"{where.threads} threads"
    )
    return (
        f"{model['name']}: {model['architecture']}, {model['profile'] or 'no profile'}, "
        f"{model['bits_per_weight']:.2f} bits per weight, {model['weight_bytes'] / 1e6:.0f} MB; "
        f"{where.processor}, {where.cores} cores, {threads}; {facts}"
    )


def caption(record: BenchRecord) -> str:
    """How the programs ran, and what the numbers are."""
    notes = [
        f"{each.program.name}: {each.program.note}" for each in record.programs if each.program.note
    ]
    median = f"median of {record.options.runs} runs, lowest and highest; speeds in tokens/s"
    ratio = ["ratio: how many times as good ours is as the best other"] if notes else []
    return "; ".join([median, *notes, *ratio])


def measure_name(name: str) -> str:
    """A measure's name for people."""
    if name.startswith("prefill_"):
        return f"prompt of {name.removeprefix('prefill_')} tokens"
    if name.startswith("batch_decode_"):
        return f"decode, {name.removeprefix('batch_decode_')} at a time"
    return _NAMES[name]


def described(measure: Measure) -> str:
    """Median, lowest and highest of a measure."""
    low, high = min(measure.values), max(measure.values)
    if measure.unit == BYTES:
        return f"{measure.median / 1e6:,.0f} MB"
    digits = 2 if measure.unit == SECONDS else 1
    unit = " s" if measure.unit == SECONDS else ""
    return f"{measure.median:,.{digits}f}{unit} ({low:,.{digits}f}-{high:,.{digits}f})"


def _measures(record: BenchRecord) -> Iterator[str]:
    """Names of all measures, in the order in which they were taken."""
    yield from dict.fromkeys(name for each in record.programs for name in each.measures)
