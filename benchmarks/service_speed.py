"""What gRPC costs: streams through our service, the engine in process, and mlx_lm.server.

    uv run python benchmarks/service_speed.py MODEL --work DIR

MODEL is a converted directory in MLX layout, such as `jang-quant convert smollm2 MODEL --profile
UNIFORM_4` writes. Measures one stream and 16 at once, through gRPC and by the engine in process,
in turn and in many short runs; then the same beside stock mlx_lm.server over HTTP, which gets a
copy of the model with float32 scales in DIR. The processes are all there from the begin, and one
works at a time. Writes docs/results/service-speed.md; leave the machine alone meanwhile. With
--quick everything is short and the page is only printed.
"""

import argparse
import json
import os
import random
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from quality.checkout import ROOT, checked_out_commit
from service.float32_model import float32_model
from service.processes import free_port, http_server, our_server
from service.speed_page import Conduct, page
from service.speed_programs import Take, Work, engine_in_process, fewer, over_grpc, over_http
from service.watching import Speeds

from jang_format.terminal import count_progress
from jang_runtime import Client

RESULT: Final = ROOT / "docs" / "results" / "service-speed.md"
STREAMS: Final = 16
_PROMPT_WORDS: Final = 16
_TEXT: Final = (
    "river stone window garden summer letter bread horse paper light music water house "
    "road mountain silver winter kitchen story teacher market forest bridge morning "
    "engine island doctor butter street color village night animal number picture country"
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Example: uv run python benchmarks/service_speed.py ./smollm2-4 --work /tmp/speed",
    )
    parser.add_argument("model", type=Path, help="a converted directory")
    parser.add_argument("--work", type=Path, required=True, help="for copies and logs")
    parser.add_argument("--rounds", type=int, default=90, help="of one stream; a sixth for 16")
    parser.add_argument("--tokens", type=int, default=192, help="of each stream of ours")
    parser.add_argument("--peer-rounds", type=int, default=3, help="beside mlx_lm.server")
    parser.add_argument("--peer-tokens", type=int, default=24, help="of each stream there")
    parser.add_argument("--quick", action="store_true", help="no page is written")
    return parser.parse_args()


def drawn(address: str, seed: int, max_tokens: int) -> Work:
    """Sixteen requests; their tokens are those that our server makes of their texts."""
    chance = random.Random(seed)
    texts = [" ".join(chance.choices(_TEXT.split(), k=_PROMPT_WORDS)) for _ in range(STREAMS)]
    with Client(address) as client:
        ids = [tuple(client.tokenize(text)) for text in texts]
        eos = tuple(client.model_info().eos_token_ids)
    return Work(tuple(texts), tuple(ids), max_tokens, eos)


def rounds(
    programs: Mapping[str, Take],
    works: Sequence[Work],
    show: Callable[[int, int, str], None],
) -> dict[str, list[Speeds]]:
    """Give each work to all programs, the order turned around every time."""
    taken: dict[str, list[Speeds]] = {name: [] for name in programs}
    for number, work in enumerate(works):
        names = list(programs) if number % 2 == 0 else list(programs)[::-1]
        for name in names:
            taken[name].append(programs[name](work))
        show(number + 1, len(works), "")
    return taken


def measured(options: argparse.Namespace) -> Conduct:
    """All of it."""
    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    model: Path = options.model.absolute()
    before = os.getloadavg()
    with ExitStack() as stack:
        engine = stack.enter_context(engine_in_process(model))
        server = stack.enter_context(our_server(model, work / "server.log"))
        grpc = stack.enter_context(over_grpc(server.address))
        ours = {"engine": engine, "gRPC": grpc}
        many = [drawn(server.address, seed, options.tokens) for seed in range(options.rounds + 1)]
        one = [fewer(each, 1, options.tokens) for each in many]
        # Not counted: the first of all.
        for take in ours.values():
            take(one[-1])
            take(many[-1])
        with count_progress("one stream") as show:
            alone = rounds(ours, one[:-1], show)
        with count_progress(f"{STREAMS} streams") as show:
            together = rounds(ours, many[: max(1, options.rounds // 6)], show)
        peer_alone: dict[str, list[Speeds]] = {}
        peer_together: dict[str, list[Speeds]] = {}
        if options.peer_rounds:
            port = free_port()
            copy = float32_model(model, work / f"{model.name}-float32")
            command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(copy)]
            command += ["--port", str(port)]
            url = stack.enter_context(http_server(command, port, work / "mlx_lm.log"))
            both = {"gRPC": grpc, "mlx_lm.server": over_http(url, str(copy))}
            few = [fewer(each, STREAMS, options.peer_tokens) for each in many]
            first = [fewer(each, 1, options.peer_tokens) for each in many]
            both["mlx_lm.server"](first[-1])
            with count_progress("beside mlx_lm.server, one stream") as show:
                peer_alone = rounds(both, first[: options.peer_rounds], show)
            with count_progress(f"beside mlx_lm.server, {STREAMS} streams") as show:
                peer_together = rounds(both, few[: options.peer_rounds], show)
    return Conduct(alone, together, peer_alone, peer_together, before, os.getloadavg())


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    conduct = measured(options)
    options.work.joinpath("service-speed.json").write_text(json.dumps(conduct.as_json(), indent=2))
    placeholders = {str(options.work): "DIR", str(options.model): "MODEL"}
    given = [placeholders.get(part, part) for part in sys.argv[1:]]
    command = shlex.join(["uv", "run", "python", "benchmarks/service_speed.py", *given])
    text = page(conduct, command, options, checked_out_commit())
    print(text)
    if not options.quick:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
