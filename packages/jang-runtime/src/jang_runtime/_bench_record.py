"""What a benchmark found: measures with their spread, ratios, and the JSON of both."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from jang_runtime._bench_conditions import Conditions
from jang_runtime._bench_task import BenchOptions, RunTimes, StepTimes

TOKENS: Final = "tokens/s"
SECONDS: Final = "s"
BYTES: Final = "bytes"


@dataclass(frozen=True)
class Program:
    """A program that was measured: its name, and how it ran if that needs to be said."""

    name: str
    note: str


@dataclass(frozen=True)
class Measure:
    """One quantity, as each run found it.

    Attributes:
        name: Such as "prefill_512".
        unit: "tokens/s", of which more is better, "s" or "bytes", of which less is.
        values: One for each run.
    """

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class ProgramRecord:
    """All that was measured of a program, by name of the measure."""

    program: Program
    facts: Mapping[str, str]
    measures: Mapping[str, Measure]


@dataclass(frozen=True)
class Ratio:
    """How many times as good the first program was as the best of the others."""

    measure: str
    against: str
    ratio: float


@dataclass(frozen=True)
class BenchRecord:
    """A whole benchmark.

    Attributes:
        model: What the first program says of the model.
        conditions: Where it ran.
        options: What was measured.
        programs: The first is ours.
    """

    model: Mapping[str, Any]
    conditions: Conditions
    options: BenchOptions
    programs: tuple[ProgramRecord, ...]

    def ratios(self) -> tuple[Ratio, ...]:
        """Of each measure that another program has too."""
        first, *others = self.programs
        found: list[Ratio] = []
        for name, measure in first.measures.items():
            theirs = [record for record in others if name in record.measures]
            if theirs:
                best = max(theirs, key=lambda record: _goodness(record.measures[name]))
                ratio = times_as_good(measure, best.measures[name])
                found.append(Ratio(name, best.program.name, ratio))
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`; ratios above 1 mean that the first program is better."""
        return {
            "model": dict(self.model),
            "conditions": asdict(self.conditions),
            "options": asdict(self.options),
            "programs": [_program_as_json(record) for record in self.programs],
            "ratios": [asdict(ratio) for ratio in self.ratios()],
        }


def program_record(program: Program, runs: Sequence[RunTimes]) -> ProgramRecord:
    """What a program's runs found, each measure with a value for each run."""
    found = [dict(_values(run)) for run in runs]
    measures = {
        name: Measure(name, unit, tuple(values[name, unit] for values in found))
        for name, unit in found[0]
    }
    return ProgramRecord(program, runs[0].facts, measures)


def _values(run: RunTimes) -> Iterator[tuple[tuple[str, str], float]]:
    """Name and unit of each measure of a run, and its value."""
    yield ("load", SECONDS), run.load
    for step in run.steps:
        if step.name == "first_token":
            yield (step.name, SECONDS), run.start + step.first
        elif step.name:
            yield (step.name, TOKENS), _speed(step)
    yield ("resident_peak", BYTES), run.resident_peak
    if run.mlx_peak:
        yield ("mlx_peak", BYTES), run.mlx_peak


def _speed(step: StepTimes) -> float:
    """Tokens a second: of the prompt, or where the step decodes those after the first."""
    if step.decoded:
        return step.decoded / step.decode
    return step.prompt_tokens / step.first


def times_as_good(one: Measure, other: Measure) -> float:
    """How many times as fast or as small the median of one measure is as that of another."""
    return _goodness(one) / _goodness(other)


def _goodness(measure: Measure) -> float:
    return measure.median if measure.unit == TOKENS else 1 / measure.median


def _program_as_json(record: ProgramRecord) -> dict[str, Any]:
    return {
        "name": record.program.name,
        "note": record.program.note,
        "facts": dict(record.facts),
        "measures": [
            {
                **asdict(measure),
                "median": measure.median,
                "lowest": min(measure.values),
                "highest": max(measure.values),
            }
            for measure in record.measures.values()
        ],
    }
