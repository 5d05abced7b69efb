"""A load test of the service: random requests, many at once, cancelled, malformed, read slowly.

    uv run python benchmarks/service_load.py --work DIR

Converts a tiny random model into DIR, serves it by `jang-runtime serve`, and sends 10 000 requests
over sockets of loopback, 64 at once: of all calls of the API, 30 % cancelled at random moments by
the client or by Abort from another connection, 5 % malformed, with random deadlines and slow
readers. Writes docs/results/service-load.md; ends with status 1 if a request has no end or one that
it may not have, if an answer is not whole or not the one that the same request got alone, if the
server holds on to anything, if its memory grows, or if its log says something else. With --json
prints the same as one document, and writes no page.
"""

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from runpy import run_path
from typing import Any, Final

from quality.checkout import ROOT, checked_out_commit
from service.campaign import Record, Size, campaign
from service.checks import MEMORY_TOLERANCE, complaints
from service.load_page import outcome_table, page
from service.processes import our_server

from jang_format.terminal import count_progress

RESULT: Final = ROOT / "docs" / "results" / "service-load.md"
_CONTEXT: Final = 4096
# Small enough that requests are refused and have to wait, for places and for memory, and that the
# prefix cache is full all the time.
_OPTIONS: Final = (
    *("--max-queue", "46"),
    *("--cache-memory", "8"),
    *("--prefix-cache", "8"),
    *("--max-message", "1"),
)


def tiny_model(work: Path) -> Path:
    """The tests' random llama with a longer context, converted unless it is there already."""
    out = work / "tiny-4M"
    if not out.exists():
        helpers = run_path(str(ROOT / "conftest.py"))
        source = work / "tiny"
        if not source.exists():
            helpers["write_tiny_source"](source, max_position_embeddings=_CONTEXT)
        helpers["convert_to"](source, out, "JANG_4M")
    return out


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Example: uv run python benchmarks/service_load.py --work /tmp/load --seed 1",
    )
    parser.add_argument("--work", type=Path, help="for model and log, kept  [default: thrown away]")
    parser.add_argument("--model", type=Path, help="serve this directory  [default: a tiny one]")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=4000, help="requests before them")
    parser.add_argument("--parts", type=int, default=10, help="a look at the server after each")
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=900.0, help="no more are sent after that")
    parser.add_argument("--tolerance", type=float, default=MEMORY_TOLERANCE, help="of memory")
    parser.add_argument("--json", action="store_true", help="print a document, write no page")
    return parser.parse_args()


@contextmanager
def progress(quiet: bool, total: int) -> Generator[Callable[[int], None]]:
    """How many requests have ended."""
    if quiet:
        yield lambda done: None
        return
    with count_progress("requests") as show:
        yield lambda done: show(done, total, "")


def measured(work: Path, options: argparse.Namespace) -> tuple[Record, list[str]]:
    """What was found, and what is wrong with it."""
    size = Size(
        requests=options.requests,
        at_once=options.at_once,
        parts=options.parts,
        warm_up=options.warm_up,
        seed=options.seed,
        seconds=options.seconds,
    )
    model: Path = options.model or tiny_model(work)
    log = work / "server.log"
    with our_server(model, log, _OPTIONS) as server:
        with progress(options.json, size.warm_up + size.requests) as show:
            record = asyncio.run(campaign(server, size, show))
        status = server.end()
    return record, complaints(record, log, status, options.tolerance)


def document(record: Record, found: list[str]) -> dict[str, Any]:
    """All of it for a program."""
    return {
        "requests": len(record.results),
        "seconds": record.seconds,
        "outcomes": outcome_table(record.results),
        "samples": [asdict(sample) for sample in record.samples],
        "complaints": found,
    }


def main() -> None:
    """Run the test and write the page."""
    options = arguments()
    with nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as work:
        Path(work).mkdir(parents=True, exist_ok=True)
        record, found = measured(Path(work).absolute(), options)
    if options.json:
        print(json.dumps(document(record, found), indent=2))
    else:
        given = ["DIR" if part == str(options.work) else part for part in sys.argv[1:]]
        command = shlex.join(["uv", "run", "python", "benchmarks/service_load.py", *given])
        text = page(record, found, command, options, checked_out_commit())
        print(text)
        if not found:
            RESULT.write_text(text)
    for complaint in found[:40]:
        print(f"error: {complaint}", file=sys.stderr)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
