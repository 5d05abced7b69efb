"""What tests of several ranks share: tiny models that can be split, free ports, mlx.launch."""

import random
import socket
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from runpy import run_path
from typing import Any

from conftest import write_byte_tokenizer
from jang_format import BIT_WIDTHS
from jang_quant import convert, find_profile, open_source, plan_source

HELPERS = run_path(
    str(Path(__file__).parents[1] / "packages" / "jang-quant" / "tests" / "checkpoints.py")
)
ARCHITECTURES: dict[str, dict[str, Any]] = HELPERS["ARCHITECTURES"]
# Every row of the tiny models has an even number of such groups.
GROUP_SIZE = 32


def free_ports() -> int:
    """The first of two ports in a row that nobody uses.

    Below those that systems give to whoever does not care: until they are used, no connection of
    another program takes them.
    """
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def launch_command(*command: str) -> list[str]:
    launcher = Path(sys.executable).with_name("mlx.launch")
    ports = ["--starting-port", str(free_ports())]
    return [str(launcher), "-n", "2", "--backend", "ring", *ports, "--", *command]


def converted(name: str, folder: Path) -> Path:
    """A tiny model of every width, each row in groups of 32."""
    checkpoint: Path = HELPERS["write_checkpoint"](folder / name, name)
    write_byte_tokenizer(checkpoint)
    source = open_source(str(checkpoint))
    plan = plan_source(source, find_profile("4M"))
    modules = tuple(
        module if module.bits is None else replace(module, bits=bits, group_size=GROUP_SIZE)
        for module, bits in zip(plan.modules, cycle(BIT_WIDTHS), strict=False)
    )
    convert(source, folder / f"{name}.jang", replace(plan, modules=modules))
    return folder / f"{name}.jang"
