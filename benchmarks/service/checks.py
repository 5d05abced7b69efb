"""Whether a load test came out as it has to, by the clients, the server's numbers and its log."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from service.calling import Result
from service.campaign import Record, Sample

# Of resident memory at the end, against its level after the warm-up.
MEMORY_TOLERANCE: Final = 0.02
_EXPECTED_EVENTS: Final = ("call", "draining")
# Ends that a server sees in another way than the client, which has left.
_LEFT: Final = ("CANCELLED", "DEADLINE_EXCEEDED")


def complaints(record: Record, log: Path, status: int | None, tolerance: float) -> list[str]:
    """All that is not as it has to be, a line each.

    Args:
        record: What the clients saw.
        log: The server's.
        status: With which the server's process ended; None if it did not.
        tolerance: Of resident memory.
    """
    return [
        *_of_clients(record),
        *_of_log(record.results, log),
        *_of_memory(record, tolerance),
        *([] if status == 0 else [f"the server ended with status {status}"]),
    ]


def _of_clients(record: Record) -> Iterator[str]:
    if not record.is_whole:
        yield f"only {len(record.results)} requests were sent within the time"
    for result in record.results:
        if result.outcome not in result.plan.allowed:
            allowed = ", ".join(sorted(result.plan.allowed))
            yield f"{_name(result)}: {result.outcome}, expected {allowed}"
        if result.fault:
            yield f"{_name(result)}: {result.fault}"
    for what, amount in record.busy.items():
        yield f"{what} is {amount:g} with nothing under way"


def level(samples: Sequence[Sample]) -> float:
    """Bytes of resident memory in some samples; one alone is a percent or two off."""
    return mean(sample.resident for sample in samples)


def ends(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The first and the last samples, three of each if there are as many."""
    count = max(1, min(3, len(samples) // 2))
    return samples[:count], samples[-count:]


def _of_memory(record: Record, tolerance: float) -> Iterator[str]:
    first, last = (level(each) for each in ends(record.samples))
    if abs(last - first) > tolerance * first:
        yield f"{first:.0f} bytes resident after the warm-up, {last:.0f} at last"
    if record.samples[-1].files != record.samples[0].files:
        yield f"{record.samples[0].files} open files at first, {record.samples[-1].files} at last"


def _of_log(results: Sequence[Result], log: Path) -> Iterator[str]:
    """Every request that came so far has one line, which says what its client says."""
    calls: dict[str, list[dict[str, Any]]] = {}
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            yield f"log: {line}"
            continue
        if entry["event"] not in _EXPECTED_EVENTS or entry["level"] != "info":
            yield f"log: {line}"
        calls.setdefault(entry.get("request_id", ""), []).append(entry)
    by_name = Counter(result.plan.name for result in results)
    for result in results:
        name, lines = result.plan.name, calls.get(result.plan.name, [])
        # Names that several had, or that were refused.
        if not name or by_name[name] > 1:
            continue
        # One who leaves at once may never have been heard.
        least = int(result.plan.reaches_service and result.outcome not in _LEFT)
        if not least <= len(lines) <= int(result.plan.reaches_service):
            yield f"{_name(result)}: {len(lines)} lines in the log"
        if lines and not _agree(result, lines[0]):
            yield f"{_name(result)}: {result.outcome} for the client, {lines[0]} in the log"


def _agree(result: Result, line: dict[str, Any]) -> bool:
    code, reason = line["code"], line.get("reason", "")
    if result.outcome in _LEFT:
        # The answer may have been on its way.
        return code in (*_LEFT, "OK") or f"{code} {reason}" in result.plan.allowed
    if code == "OK":
        return result.outcome in ("OK", f"OK {line.get('finish_reason', '')}")
    return result.outcome == f"{code} {reason}".strip()


def _name(result: Result) -> str:
    plan = result.plan
    return f"{plan.name or 'a request without a name'} ({plan.group}, {plan.method})"
