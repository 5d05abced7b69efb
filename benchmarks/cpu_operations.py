"""Where a token's time goes on a CPU: `python benchmarks/cpu_operations.py`.

Each operation of SmolLM2-135M at the shapes of decoding one token after 512, by the compiled
kernels and by MLX's own CPU operations, all in float32, weights at 4 bits in groups of 64. A run is
one graph of as many as a token needs, each after the one before and with weights of its own, as a
model has them; its time is that of evaluating the graph. Ours and MLX's take turns; median,
smallest and largest of the runs. Beside them the whole model as it loads from a directory made by
jang-quant: building the graph of a token in Python, and evaluating it. Writes
docs/results/cpu-operations.md; takes half a minute.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import jang_runtime.blas  # isort: skip  # before MLX
import mlx.core as mx
from mlx_lm.models.activations import swiglu
from quality.checkout import ROOT, checked_out_commit

from jang_quant import convert, find_profile, open_source, plan_source
from jang_runtime._bench_conditions import conditions
from jang_runtime._blocks.matrices import after
from jang_runtime._model import load
from jang_runtime._native import cpu_kernels, cpu_kernels_description

PAGE: Final = ROOT / "docs" / "results" / "cpu-operations.md"
RUNS: Final = 9
LAYERS: Final = 30
HIDDEN: Final = 576
INNER: Final = 1536
HEADS: Final = 9
KEY_HEADS: Final = 3
SIZE: Final = 64
VOCABULARY: Final = 49152
POSITIONS: Final = 512

# The result of the step before, and the number of the step; a result that needs the former.
Step = Callable[[mx.array, int], mx.array]


@dataclass(frozen=True)
class Operation:
    """An operation by either program.

    Attributes:
        name: For the page.
        per_token: How often a token needs it.
        ours: By the compiled kernels.
        mlx: By MLX.
    """

    name: str
    per_token: int
    ours: Step
    mlx: Step


def _compute(*arrays: mx.array) -> None:
    cast(Any, mx).eval(*arrays)  # its type is open in mlx's stubs


def linear(name: str, per_token: int, out: int, columns: int) -> Operation:
    """Packed products with as many matrices as a token needs, more than processors' caches hold."""
    native = cast(Any, cpu_kernels())
    vector = mx.random.normal((1, 1, columns))
    matrices: list[tuple[mx.array, ...]] = []
    for _ in range(per_token):
        weight, *rest = mx.quantize(mx.random.normal((out, columns)) / columns**0.5, 64, 4)
        halves = [each.astype(mx.float16) for each in rest]
        exact = [each.astype(mx.float32) for each in halves]
        _compute(vector, weight, *halves, *exact)
        matrices.append((weight, *halves, *exact))

    def ours(x: mx.array, turn: int) -> mx.array:
        weight, scales, biases, _, _ = matrices[turn]
        return native.packed_linear(after(vector, x), weight, scales, biases, 64, 4)

    def mlx(x: mx.array, turn: int) -> mx.array:
        weight, _, _, scales, biases = matrices[turn]
        vectors = after(vector, x)
        return mx.quantized_matmul(
            vectors, weight, scales=scales, biases=biases, group_size=64, bits=4
        )

    return Operation(name, per_token, ours, mlx)


def operations() -> Iterator[Operation]:
    """What a token of SmolLM2 needs."""
    native = cast(Any, cpu_kernels())
    yield linear("query and output projections", 2 * LAYERS, HIDDEN, HIDDEN)
    yield linear("key and value projections", 2 * LAYERS, KEY_HEADS * SIZE, HIDDEN)
    yield linear("gate and up projections", 2 * LAYERS, INNER, HIDDEN)
    yield linear("down projection", LAYERS, HIDDEN, INNER)
    yield linear("head", 1, VOCABULARY, HIDDEN)
    weight = mx.ones((HIDDEN,))
    yield Operation(
        "RMSNorm",
        2 * LAYERS + 1,
        lambda x, _: native.rms_norm(x, weight, 1e-5),
        lambda x, _: mx.fast.rms_norm(x, weight, 1e-5),
    )
    place = mx.array(POSITIONS)
    heads = (1, HEADS, 1, SIZE)
    yield Operation(
        "RoPE of the queries",
        LAYERS,
        lambda x, _: native.rope(mx.reshape(x, heads), SIZE, False, 10000.0, 1.0, place, None),
        lambda x, _: mx.fast.rope(
            mx.reshape(x, heads), SIZE, traditional=False, base=10000.0, scale=1.0, offset=POSITIONS
        ),
    )
    shape = (LAYERS, 1, KEY_HEADS, POSITIONS, SIZE)
    keys, values = ([*mx.random.normal(shape)] for _ in range(2))
    _compute(*keys, *values)
    yield Operation(
        f"attention over {POSITIONS} tokens",
        LAYERS,
        lambda x, turn: native.attention(
            mx.reshape(x, heads), keys[turn], values[turn], 0.125, False, None, None
        ),
        lambda x, turn: mx.fast.scaled_dot_product_attention(
            mx.reshape(x, heads), keys[turn], values[turn], scale=0.125
        ),
    )
    inner = mx.random.normal((1, 1, INNER))
    _compute(inner)
    yield Operation(
        "SwiGLU",
        LAYERS,
        lambda x, _: native.swiglu(after(inner, x), inner),
        lambda x, _: swiglu(after(inner, x), inner),
    )
    yield Operation("addition", 2 * LAYERS, lambda x, _: x + x, lambda x, _: x + x)


def seconds_of(step: Step, times: int) -> float:
    """Seconds of the graph of an operation as often as a token needs it."""
    x = mx.random.normal((1, 1, HIDDEN))
    _compute(x)
    for turn in range(times):
        x = step(x, turn)
    begun = time.perf_counter()
    _compute(x)
    return time.perf_counter() - begun


def measured(operation: Operation) -> tuple[list[float], list[float]]:
    """Microseconds of each run, ours and MLX's, after one of each that does not count."""
    ours: list[float] = []
    mlx: list[float] = []
    for run in range(RUNS + 1):
        for step, times in ((operation.ours, ours), (operation.mlx, mlx)):
            taken = seconds_of(step, operation.per_token) * 1e6
            if run > 0:
                times.append(taken)
    return ours, mlx


def token_times(directory: Path) -> tuple[list[float], list[float]]:
    """Microseconds of building and of evaluating the graphs of tokens after 512."""
    from mlx_lm.models.cache import make_prompt_cache

    model = cast(Callable[..., mx.array], load(directory).model)
    cache = make_prompt_cache(cast(Any, model))
    _compute(model(mx.arange(POSITIONS)[None], cache=cache))
    token = mx.array([[5]])
    built: list[float] = []
    evaluated: list[float] = []
    for _ in range(40):
        begun = time.perf_counter()
        logits = model(token, cache=cache)
        token = mx.argmax(logits[:, -1:, :], axis=-1)
        between = time.perf_counter()
        _compute(token)
        built.append((between - begun) * 1e6)
        evaluated.append((time.perf_counter() - between) * 1e6)
    return built[8:], evaluated[8:]


def described(times: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(times):.0f} ({min(times):.0f}-{max(times):.0f})"


def page(rows: list[tuple[Operation, list[float], list[float]]], directory: Path) -> str:
    """The whole page."""
    built, evaluated = token_times(directory)
    where = conditions({}, None)
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "jang-runtime"))
    commit = checked_out_commit()
    lines = [
        "# Where a token's time goes on a CPU",
        "",
        "Written by `python benchmarks/cpu_operations.py`, which says what is measured.",
        "",
        f"{where.processor}, {where.cores} cores, Python {platform.python_version()}, {versions}, "
        f"commit {commit}; {cpu_kernels_description()}; BLAS {jang_runtime.blas.blas_in_use()}; "
        f"{RUNS} runs, microseconds.",
        "",
        "| operation | in a token | ours, of a token | MLX's, of a token | times |",
        "|---|---:|---:|---:|---:|",
    ]
    for operation, ours, mlx in rows:
        lines.append(
            f"| {operation.name} | {operation.per_token} | {described(ours)} | {described(mlx)} | "
            f"{statistics.median(mlx) / statistics.median(ours):.1f} |"
        )
    total = sum(statistics.median(ours) for _, ours, _ in rows)
    lines += [
        f"| all of these | | {total:.0f} | | |",
        "",
        f"SmolLM2 at 4 bits, a token after {POSITIONS}: its graph is built by Python in "
        f"{described(built)}, and evaluated in {described(evaluated)}. When text is generated, the "
        "next token's graph is built while this one's is evaluated.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    if cpu_kernels() is None:
        raise SystemExit(cpu_kernels_description())
    rows = [(operation, *measured(operation)) for operation in operations()]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "smollm2"
        source = open_source("smollm2")
        convert(source, directory, plan_source(source, find_profile("UNIFORM_4")))
        text = page(rows, directory)
    PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
