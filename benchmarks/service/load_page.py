"""The page of a load test."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from jang_runtime._bench_conditions import conditions
from service.calling import Result
from service.campaign import Record
from service.checks import ends, level

_PACKAGES = ("grpcio", "protobuf")


def outcome_table(results: Sequence[Result]) -> dict[str, dict[str, int]]:
    """How many requests of each group had each outcome, the most frequent first."""
    groups: dict[str, Counter[str]] = {}
    for result in results:
        groups.setdefault(result.plan.group, Counter())[result.outcome] += 1
    ordered = sorted(groups.items(), key=lambda item: -item[1].total())
    return {group: dict(counts.most_common()) for group, counts in ordered}


def page(
    record: Record, found: Sequence[str], command: str, options: argparse.Namespace, commit: str
) -> str:
    """The whole page.

    Args:
        record: What the clients saw.
        found: What is wrong with it.
        command: What was typed.
        options: The command line.
        commit: Of this repository.
    """
    return "\n".join(
        [
            "# Random requests to one server, many at once",
            "",
            "Written by",
            "",
            f"    {command}",
            "",
            *_introduction(record, options, commit),
            "",
            "| what is special about them | requests | outcomes |",
            "|---|---:|---|",
            *_rows(outcome_table(record.results)),
            "",
            *_aborts(record.results),
            "",
            *_memory(record),
            "",
            *(found or [_NOTHING]),
            "",
        ]
    )


_NOTHING = """Every request had one outcome, and one that its kind may have; every answer was whole
and in order, and those to requests that had been asked alone before were the same to the last
token. Every call that reached the service has one line in the server's log, with the code that its
client saw (one that had left may see its deadline where the server sees a cancelled call), and the
log has no other lines. After each part nothing was queued, active, open or promised, by
GetServerInfo and by the metrics. SIGTERM ended the server with status 0."""


def _introduction(record: Record, options: argparse.Namespace, commit: str) -> Iterator[str]:
    where = conditions({}, None)
    versions = {**where.versions, **{name: version(name) for name in _PACKAGES}}
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    limits = record.server.limits
    yield (
        f"A random llama of two layers, seed {options.seed}, {options.at_once} requests at once "
        f"over 8 connections, {limits.max_active} under way in the engine, {limits.max_queued} in "
        f"its queue, {limits.cache_bytes / 1e6:.0f} MB for keys and values, so that requests "
        "wait for both and some are refused. Clients and server share the machine."
    )
    yield ""
    yield (
        f"{where.processor}, {where.cores} cores, {where.system}, Python {where.python}, {named}, "
        f"commit {commit}; {record.server.backend}. {options.requests} requests after "
        f"{options.warm_up} of the same kinds, all of them in the tables, in "
        f"{record.seconds:.0f} s, {_tokens(record.metrics)} tokens generated."
    )


def _tokens(metrics: Mapping[str, float]) -> int:
    return int(metrics["jang_generated_tokens_total"])


def _rows(table: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for group, counts in table.items():
        outcomes = ", ".join(f"{outcome} {count}" for outcome, count in counts.items())
        yield f"| {group} | {sum(counts.values())} | {outcomes} |"


def _aborts(results: Sequence[Result]) -> Iterator[str]:
    sent = [result.aborted for result in results if result.aborted is not None]
    faults = sum(bool(result.fault) for result in results)
    twins = sum(
        result.plan.twin is not None and result.outcome.startswith("OK") for result in results
    )
    yield (
        f"{len(sent)} Aborts were sent, {sum(sent)} found their request under way; the others had "
        f"ended before, or not yet come. {twins} answers were to requests asked alone before; "
        f"{faults} answers were not as they have to be."
    )


def _memory(record: Record) -> Iterator[str]:
    first, last = (level(each) for each in ends(record.samples))
    yield (
        f"Resident memory of the server with nothing under way: {first / 1e6:.1f} MB after the "
        f"warm-up, {last / 1e6:.1f} MB at the end, {100 * (last / first - 1):+.2f} %; each the "
        "mean of three looks. The prefix cache was full all the time, and the texts are 300: the "
        "tokenizer keeps the tokens of up to 10,000 words, which to this one are whole texts."
    )
    yield ""
    yield "| requests | resident memory | against the first three | MLX holds | open files |"
    yield "|---:|---:|---:|---:|---:|"
    for sample in record.samples:
        yield (
            f"| {sample.requests} | {sample.resident / 1e6:.1f} MB | "
            f"{100 * (sample.resident / first - 1):+.2f} % | {sample.mlx / 1e6:.2f} MB | "
            f"{sample.files} |"
        )
