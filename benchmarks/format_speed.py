"""How fast jang-format is: `uv run python benchmarks/format_speed.py`.

Packs, unpacks, dequantizes, opens, validates and converts a directory of about 500 MB, beside what
the safetensors library takes to load the same bytes, and writes docs/results/format-speed.md. Every
number is the median of seven runs in turn, files in the page cache. Takes about two minutes.
"""

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from quality.checkout import ROOT, checked_out_commit
from safetensors import numpy as library
from safetensors import safe_open

from jang_format import (
    BIT_WIDTHS,
    BLOCK_LAYOUT,
    MLX_LAYOUT,
    Layout,
    QuantizedModule,
    assemble,
    convert_layout,
    dequantize,
    mlx_arrays,
    mlx_specs,
    open_writer,
    pack_codes,
    quantization_config,
    read_directory,
    summarize,
    unpack_codes,
    validate,
)

RESULT: Final = ROOT / "docs" / "results" / "format-speed.md"
RUNS: Final = 7
MODULES: Final = 60
SHAPE: Final = (2048, 8192)
BITS: Final = 4
MANY: Final = 3334

HEADING: Final = """# Speed of jang-format

Written by

    uv run python benchmarks/format_speed.py

"""
EXPLANATION: Final = """
MB/s of packed bytes for pack, unpack and dequantize, of weight files for the rest.
`safetensors.load_file` reads the same files into memory and checks nothing; validate reads every
byte too, and makes a SHA-256 of it. Converting writes files, hashes them and waits for the disk,
as the plain copy does without hashing. Opening reads headers only, so what counts is its time, not
MB/s; the file of ten thousand tensors and several gigabytes is sparse.
"""


Works = dict[str, tuple[float, Callable[[], object]]]


@dataclass(frozen=True)
class Row:
    """One measurement: what, MB that it handles (0 where only time counts), seconds of each run."""

    what: str
    megabytes: float
    seconds: tuple[float, ...]

    def cells(self) -> Iterator[str]:
        """The cells of its line."""
        median = statistics.median(self.seconds)
        yield self.what
        yield f"{median * 1000:,.1f} ms"
        yield f"{min(self.seconds) * 1000:,.1f} to {max(self.seconds) * 1000:,.1f} ms"
        yield f"{self.megabytes / median:,.0f} MB/s" if self.megabytes else ""


def measure(works: Works) -> list[Row]:
    """Run all works in turn, several times."""
    seconds: dict[str, list[float]] = {what: [] for what in works}
    for _ in range(RUNS):
        for what, (_, work) in works.items():
            started = time.perf_counter()
            work()
            seconds[what].append(time.perf_counter() - started)
    return [Row(what, works[what][0], tuple(seconds[what])) for what in works]


def write_model(out: Path) -> None:
    """A directory in MLX layout with many matrices of one width."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 2**BITS, SHAPE, dtype=np.uint8)
    by_group = (SHAPE[0], SHAPE[1] // 64)
    scales = random.normal(0.01, 0.001, by_group).astype(np.float32)
    biases = random.normal(-0.08, 0.01, by_group).astype(np.float32)
    arrays = mlx_arrays(assemble(codes, scales, biases, BITS, "F16"))
    modules = {f"m.{n}": QuantizedModule(BITS, 64, "mlp") for n in range(MODULES)}
    specs = [spec for path in modules for spec in mlx_specs(path, SHAPE, BITS, 64, "F16")]
    with open_writer(out, specs) as writer:
        for path in modules:
            for part, data in arrays.items():
                writer.write_tensor(f"{path}.{part}", data)
        writer.write_json("config.json", {"quantization": quantization_config(modules)})
        writer.write_json("jang_config.json", {"format": "jang", "format_version": "2.0"})


def write_many(out: Path) -> int:
    """A weight file of ten thousand tensors and several gigabytes that takes no space."""
    specs = [s for n in range(MANY) for s in mlx_specs(f"m.{n}", (1024, 4096), BITS, 64, "F16")]
    header: dict[str, object] = {}
    position = 0
    for spec in specs:
        end = position + spec.nbytes
        shape = list(spec.shape)
        header[spec.name] = {"dtype": spec.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    out.mkdir()
    with (out / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + position)
    (out / "config.json").write_text('{"quantization": {"bits": 4, "group_size": 64}}')
    return len(specs)


def load_by_library(file: Path) -> None:
    """What the library does to load a file."""
    library.load_file(str(file))  # pyright: ignore[reportUnknownMemberType] - open in its stubs


def open_by_library(directory: Path) -> None:
    """What the library does to read the header."""
    with safe_open(directory / "model.safetensors", framework="numpy"):
        pass


def convert(source: Path, layout: Layout) -> None:
    """Convert a directory, and remove what comes out."""
    out = source.parent / "out"
    convert_layout(read_directory(source), out, layout)
    shutil.rmtree(out)


def copy(source: Path, target: Path) -> None:
    """Copy a file as converting writes one: until it is on the disk."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 22)
        writer.flush()
        os.fsync(writer.fileno())
    target.unlink()


def packing_works() -> Works:
    """Pack and unpack a matrix in each width."""
    random = np.random.default_rng(0)
    works: Works = {}
    for bits in BIT_WIDTHS:
        codes = random.integers(0, 2**bits, SHAPE, dtype=np.uint8)
        words = pack_codes(codes, bits)
        megabytes = words.nbytes / 1e6
        works[f"pack {bits} bits"] = (megabytes, partial(pack_codes, codes, bits))
        works[f"unpack {bits} bits"] = (megabytes, partial(unpack_codes, words, bits))
    return works


def directory_works(work: Path) -> Works:
    """What is done with whole directories, beside the library."""
    mlx, blocks, many = work / "mlx", work / "blocks", work / "many"
    write_model(mlx)
    opened = read_directory(mlx)
    convert_layout(opened, blocks, BLOCK_LAYOUT)
    tensors = write_many(many)
    megabytes = opened.weight_bytes / 1e6
    block_megabytes = read_directory(blocks).weight_bytes / 1e6
    module = opened.quantized("m.0")
    (file,) = (mlx / name for name in opened.weight_files)
    return {
        "dequantize one matrix": (module.nbytes / 1e6, lambda: dequantize(module)),
        "safetensors.load_file": (megabytes, lambda: load_by_library(file)),
        "validate, digests too": (megabytes, lambda: validate(mlx)),
        "copy the file, and sync": (megabytes, lambda: copy(file, work / "copy")),
        "convert blocks to MLX": (block_megabytes, lambda: convert(blocks, MLX_LAYOUT)),
        "convert MLX to blocks": (megabytes, lambda: convert(mlx, BLOCK_LAYOUT)),
        f"open {tensors:,} tensors": (0, lambda: read_directory(many)),
        "safetensors.safe_open, the same": (0, lambda: open_by_library(many)),
        "inspect, the same": (0, lambda: summarize(read_directory(many))),
    }


def conditions() -> str:
    """What was measured, on what."""
    return (
        f"{MODULES} matrices {list(SHAPE)} in {BITS} bits, in one file. {platform.machine()}, "
        f"Python {platform.python_version()}, numpy {version('numpy')}, safetensors "
        f"{version('safetensors')}, commit {checked_out_commit()}. Median of {RUNS} runs, files in "
        "the page cache."
    )


def main() -> None:
    """Measure and write the page."""
    # Beside the checkout: /tmp may be memory, which is no disk.
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        rows = measure(packing_works() | directory_works(Path(name)))
    lines = [
        conditions(),
        "",
        "| what | median | fastest to slowest | |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    page = HEADING + "\n".join(lines) + "\n" + EXPLANATION
    RESULT.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
