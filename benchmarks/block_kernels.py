"""How fast the kernels for blocks of mixed widths are: `python benchmarks/block_kernels.py`.

Needs MLX with a GPU; on any other machine `--page-only` writes the page from the record.

Matrices of random blocks, widths drawn so that their mean is 4 or 4.5 bits, beside
`mx.quantized_matmul` in groups of 64 at the same bits (4.5: the mean of its times at 4 and at 5).
A run is one graph in which every product takes the result of the one before, as in a model that
decodes: 128 products with 32 matrices, more bytes than a GPU's cache holds. Time is that of the run
divided by the products; the median of 15 runs after 3, and the smallest and largest. Beside them
what the same graph takes with matrices of 64 by 64, which is launching alone, and the bytes of a
product over the bandwidth that reading and writing a gigabyte shows. Takes a minute.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np

from jang_format import BIT_WIDTHS, block_offsets
from jang_runtime._backend import detect_backend
from jang_runtime._blocks.matrices import BlockMatrices, block_matrices
from jang_runtime._blocks.operations import operations_for

RESULTS: Final = Path(__file__).parent.parent / "docs" / "results"
RECORD: Final = RESULTS / "block-kernels.json"
PAGE: Final = RESULTS / "block-kernels.md"

RUNS: Final = 15
WARM_UP: Final = 3
MATRICES: Final = 32
PASSES: Final = 4
# Parts of blocks with each of BIT_WIDTHS.
MIXES: Final = {4.0: (0.15, 0.2, 0.3, 0.2, 0.15, 0.0), 4.5: (0.1, 0.15, 0.25, 0.25, 0.2, 0.05)}
# MLX's widths whose times are averaged for the same bits.
PEERS: Final = {4.0: (4, 4), 4.5: (4, 5)}
# Shapes [out, in] that take turns, so that each result fits the next matrix.
SHAPES: Final = {
    "4096 x 4096": ((4096, 4096),),
    "8192 x 2048, 2048 x 8192": ((8192, 2048), (2048, 8192)),
    "14336 x 4096, 4096 x 14336": ((14336, 4096), (4096, 14336)),
    "576 x 576": ((576, 576),),
}

Layer = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        what: "blocks", "mlx", "launch" or "copy".
        shape: A key of `SHAPES`; empty for "launch" and "copy".
        bits: Mean bits.
        dtype: Type of the vectors.
        vectors: How many go through at once.
        nbytes: Bytes of a product, on average.
        seconds: For a product, of each run.
    """

    what: str
    shape: str
    bits: float
    dtype: str
    vectors: int
    nbytes: float
    seconds: tuple[float, ...]

    @property
    def microseconds(self) -> float:
        """The median."""
        return statistics.median(self.seconds) * 1e6


def random_blocks(out: int, columns: int, bits: float, seed: int) -> BlockMatrices:
    """A matrix of mixed widths whose products are about as large as the vectors."""
    random = np.random.default_rng(seed)
    blocks = out * -(-columns // 64)
    widths = random.choice(np.array(BIT_WIDTHS, dtype=np.uint8), blocks, p=MIXES[bits])
    steps = 2.0**widths
    arrays = {
        "qweight": random.integers(0, 256, int(widths.sum(dtype=np.int64)) * 8, dtype=np.uint8),
        "scales": (np.sqrt(12 / columns) / steps).astype(np.float16),
        "zeros": ((steps - 1) / 2).astype(np.float16),
        "bit_map": widths,
        "block_offsets": block_offsets(widths),
    }
    return block_matrices(
        {part: mx.array(array) for part, array in arrays.items()}, widths, (out, columns)
    )


def _compute(*arrays: mx.array) -> None:
    cast(Any, mx).eval(*arrays)  # its type is open in mlx's stubs


def block_layers(name: str, bits: float) -> Iterator[tuple[Layer, int]]:
    """Products with blocks, and the bytes of each."""
    shapes = SHAPES[name]
    for number in range(MATRICES):
        matrices = random_blocks(*shapes[number % len(shapes)], bits, number)
        arrays = matrices.companions().values()
        _compute(*arrays)
        yield operations_for(matrices, detect_backend()).linear, sum(a.nbytes for a in arrays)


def mlx_layers(name: str, bits: int, dtype: mx.Dtype) -> Iterator[tuple[Layer, int]]:
    """Products of MLX, and the bytes of each."""
    shapes = SHAPES[name]
    for number in range(MATRICES):
        out, columns = shapes[number % len(shapes)]
        values = mx.random.normal((out, columns), key=mx.random.key(number)) / columns**0.5
        packed = mx.quantize(values.astype(dtype), group_size=64, bits=bits)
        _compute(*packed)

        def multiply(x: mx.array, packed: Sequence[mx.array] = packed) -> mx.array:
            return mx.quantized_matmul(x, *packed, transpose=True, group_size=64, bits=bits)

        yield multiply, sum(array.nbytes for array in packed)


def time_graph(layers: Sequence[Layer], x: mx.array, passes: int) -> tuple[float, ...]:
    """Seconds for a product in each run."""
    seconds: list[float] = []
    for _ in range(WARM_UP + RUNS):
        mx.synchronize()
        started = time.perf_counter()
        y = x
        for _ in range(passes):
            for layer in layers:
                y = layer(y)
        _compute(y)
        seconds.append((time.perf_counter() - started) / (passes * len(layers)))
    return tuple(seconds[WARM_UP:])


def measure_layers(
    what: str,
    name: str,
    bits: float,
    dtype: mx.Dtype,
    vectors: Sequence[int],
    made: Iterator[tuple[Layer, int]],
) -> Iterator[Row]:
    """The products of one kind, for each number of vectors."""
    layers = list(made)
    nbytes = statistics.mean(size for _, size in layers)
    for count in vectors:
        x = mx.random.normal((count, SHAPES[name][0][1]), key=mx.random.key(1)).astype(dtype)
        passes = PASSES if count == 1 else 1
        seconds = time_graph([layer for layer, _ in layers], x, passes)
        yield Row(what, name, bits, str(dtype).rpartition(".")[2], count, nbytes, seconds)


def measure_launch(dtype: mx.Dtype) -> Row:
    """What a product takes that has nothing to do."""
    linear = operations_for(random_blocks(64, 64, 4.0, 0), detect_backend()).linear
    seconds = time_graph([linear] * MATRICES, mx.zeros((1, 64), dtype), PASSES)
    return Row("launch", "", 4.0, str(dtype).rpartition(".")[2], 1, 0, seconds)


def measure_copy() -> Row:
    """Reading and writing half a gigabyte each."""
    x = mx.zeros((2**27,), mx.float32)
    _compute(x)
    return Row("copy", "", 32, "float32", 1, 2 * x.nbytes, time_graph([lambda y: y + 1], x, 4))


def measure() -> Iterator[Row]:
    """Every row of the page."""
    yield measure_copy()
    for dtype in (mx.bfloat16, mx.float16):
        yield measure_launch(dtype)
        for name in SHAPES:
            for bits in MIXES:
                yield from measure_layers(
                    "blocks", name, bits, dtype, (1, 4), block_layers(name, bits)
                )
            for bits in (4, 5):
                yield from measure_layers(
                    "mlx", name, bits, dtype, (1, 4), mlx_layers(name, bits, dtype)
                )


def conditions() -> dict[str, str]:
    """The machine and the versions."""
    info = cast(dict[str, Any], mx.device_info(mx.default_device()))
    return {
        "device": str(info.get("device_name") or info),
        "backend": detect_backend(),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "mlx": version("mlx"),
        "command": "python benchmarks/block_kernels.py",
    }


def page(record: dict[str, Any]) -> str:
    """The record as a page."""
    rows = [Row(**(row | {"seconds": tuple(row["seconds"])})) for row in record["rows"]]
    found = {(row.what, row.shape, row.bits, row.dtype, row.vectors): row for row in rows}
    (copy,) = (row for row in rows if row.what == "copy")
    bandwidth = copy.nbytes / statistics.median(copy.seconds)
    launches = {row.dtype: row.microseconds for row in rows if row.what == "launch"}
    lines = [
        "# Speed of the kernels for blocks",
        "",
        f"Written by `{record['conditions']['command']}`, whose first lines say how it measures.",
        "",
        "; ".join(f"{key}: {value}" for key, value in record["conditions"].items()) + ".",
        "",
        f"Floors: {bandwidth / 1e12:.2f} TB/s for a copy of half a gigabyte, and "
        + ", ".join(f"{value:.1f} us ({dtype})" for dtype, value in launches.items())
        + " for a product with nothing to do, which every product of a chain pays.",
        "",
        "Microseconds for a product: median (smallest to largest). The floor is the bytes over the "
        "bandwidth.",
        "",
        "| out x in | vectors | type | bits | blocks | mx.quantized_matmul | its speed reached "
        "| MB | floor | of the floor |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row.what != "blocks":
            continue
        peers = [
            peer
            for bits in PEERS[row.bits]
            if (peer := found.get(("mlx", row.shape, bits, row.dtype, row.vectors)))
        ]
        its_own = statistics.mean(peer.microseconds for peer in peers)
        floor = row.nbytes / bandwidth * 1e6
        lines.append(
            f"| {row.shape} | {row.vectors} | {row.dtype} | {row.bits:g} | {spread(row)} "
            f"| {' and '.join(spread(peer) for peer in dict.fromkeys(peers))} "
            f"| {its_own / row.microseconds:.2f} | {row.nbytes / 1e6:.1f} | {floor:.1f} "
            f"| {floor / row.microseconds:.2f} |"
        )
    return "\n".join(lines) + "\n"


def spread(row: Row) -> str:
    """Median, smallest and largest."""
    return f"{row.microseconds:.1f} ({min(row.seconds) * 1e6:.1f} to {max(row.seconds) * 1e6:.1f})"


def main(arguments: list[str]) -> None:
    """Measure if this machine has a GPU, and write the page."""
    if "--page-only" not in arguments:
        if detect_backend() == "cpu":
            sys.exit("found no GPU of MLX, expected one; --page-only writes the page")
        rows = [asdict(row) for row in measure()]
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps({"conditions": conditions(), "rows": rows}, indent=1) + "\n")
    text = page(json.loads(RECORD.read_text()))
    PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
