"""Matrices whose blocks have their own widths: every way to compute with them against numpy."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.mla import MultiLinear
from mlx_lm.models.switch_layers import SwitchLinear
from numpy.typing import NDArray

from jang_format import BIT_WIDTHS, QuantizedTensor, assemble_blocks, block_arrays, dequantize
from jang_runtime import ModelError
from jang_runtime._backend import detect_backend
from jang_runtime._blocks.gpu import Kernel, KernelOperations
from jang_runtime._blocks.kernel_texts import Constants, GpuBackend, KernelName
from jang_runtime._blocks.matrices import BlockMatrices, BlockOperations, block_matrices
from jang_runtime._blocks.modules import BLOCK_MODULES
from jang_runtime._blocks.native import NativeOperations
from jang_runtime._blocks.operations import operations_for
from jang_runtime._blocks.plain import PlainOperations
from jang_runtime._native import cpu_kernels

# Or CUDA rounds what float32 products are made of; MLX reads it at the first product.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

EMULATION = run_path(str(Path(__file__).parent / "emulated_kernels.py"))
Operations = Callable[[BlockMatrices], BlockOperations]
Program = Callable[[GpuBackend], Path]
DTYPES = (mx.float32, mx.float16, mx.bfloat16)
# What a number may be off by when it is rounded to a type.
ROUNDING = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Example:
    """Matrices, and what they stand for, float32 `[matrices, out, in]`."""

    matrices: BlockMatrices
    values: NDArray[np.float32]


def example(seed: int, matrices: int, out: int, columns: int) -> Example:
    """Random blocks of all widths."""
    random = np.random.default_rng(seed)
    by_block = (matrices, out, -(-columns // 64))
    bit_map = random.choice(np.array(BIT_WIDTHS, dtype=np.uint8), by_block)
    codes = random.integers(0, 256, (matrices, out, columns), dtype=np.uint8)
    codes >>= (8 - np.repeat(bit_map, 64, axis=-1)[..., :columns]).astype(np.uint8)
    scales = random.normal(0, 0.1, by_block).astype(np.float32)
    zeros = random.uniform(-4, 40, by_block).astype(np.float32)
    return example_of(assemble_blocks(codes, scales, zeros, bit_map))


def example_of(tensor: QuantizedTensor) -> Example:
    arrays = block_arrays(tensor)
    placed = block_matrices(
        {part: mx.array(array) for part, array in arrays.items() if part != "shape"},
        tensor.bit_map.reshape(-1),
        tensor.shape,
    )
    return Example(placed, dequantize(tensor))


def native(matrices: BlockMatrices) -> BlockOperations:
    kernels = cpu_kernels()
    assert kernels is not None
    return NativeOperations(matrices, kernels)


def instances(backend: GpuBackend) -> list[Any]:
    """What the launches of these tests ask for."""
    made: list[Any] = []
    for dtype in DTYPES:
        # All of them in float32, in the other types those that `VECTORS` needs.
        vectors = (
            product((1, 2, 4), (1, 2, 4))
            if dtype == mx.float32
            else [(1, 1), (1, 2), (1, 4), (2, 1), (4, 2)]
        )
        gathers = (1, 2) if dtype == mx.float32 else (2,)
        kernels: list[tuple[KernelName, Constants]] = [
            ("rows", (("THREADS", 128),)),
            ("matrix", ()),
            ("gather_matrix", ()),
            *(("vector", vector_constants(count, split)) for count, split in vectors),
            *(("gather_vector", vector_constants(1, split)) for split in gathers),
        ]
        made += [EMULATION["Instance"](name, backend, dtype, values) for name, values in kernels]
    return made


def vector_constants(x_rows: int, split: int) -> Constants:
    others = (("OUT_ROWS", 2), ("SIMD_GROUPS", 4), ("SPLIT", split), ("STEPS", 4))
    return (("X_ROWS", x_rows), *others)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Compiles the texts for a backend, once."""
    return cache(
        lambda backend: EMULATION["compile_instances"](
            instances(backend), tmp_path_factory.mktemp(backend)
        )
    )


def emulated(backend: GpuBackend, program: Path, before: int = 0) -> Operations:
    """The kernels of a GPU on the host; `before` is how many bytes are thought before `qweight`."""
    compiled = instances(backend)

    def kernel(name: KernelName, dtype: mx.Dtype, constants: Constants) -> Kernel:
        wanted = EMULATION["Instance"](name, backend, dtype, constants)
        assert wanted in compiled
        return EMULATION["EmulatedKernel"](program, wanted, before)

    return lambda matrices: KernelOperations(matrices, kernel)


def on_the_gpu(matrices: BlockMatrices) -> BlockOperations:
    return operations_for(matrices, detect_backend())


def needs(there: object, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not there, reason=reason)


HAS_GPU = detect_backend() != "cpu"


@pytest.fixture(
    scope="module",
    params=[
        "plain",
        pytest.param("native", marks=needs(cpu_kernels(), "the extension is not built here")),
        pytest.param("metal text", marks=needs(EMULATION["COMPILER"], "no C++ compiler is here")),
        pytest.param("cuda text", marks=needs(EMULATION["COMPILER"], "no C++ compiler is here")),
        pytest.param("gpu", marks=needs(HAS_GPU, "MLX has no GPU here")),
    ],
)
def operations(request: pytest.FixtureRequest, program: Program) -> Operations:
    """Each way to compute with block matrices."""
    way: str = request.param
    if way.endswith(" text"):
        backend: GpuBackend = "metal" if way.startswith("metal") else "cuda"
        return emulated(backend, program(backend))
    return {"plain": PlainOperations, "native": native, "gpu": on_the_gpu}[way]


shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 200))
seeds = st.integers(0, 2**32 - 1)


def close(found: mx.array, x: NDArray[np.float32], values: NDArray[np.float32], how: str) -> None:
    """Found are the sums that `np.einsum` takes, but for what rounding each term once changes."""
    expected = np.einsum(how, x.astype(np.float64), values.astype(np.float64))
    magnitude = np.einsum(how, np.abs(x, dtype=np.float64), np.abs(values, dtype=np.float64))
    assert found.shape == expected.shape
    assert (np.abs(np.array(found) - expected) <= 2e-6 * magnitude).all()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shape=shapes, data=st.data())
def test_rows_are_the_values_of_the_format_to_the_last_bit(
    operations: Operations, seed: int, shape: tuple[int, int, int], data: st.DataObject
) -> None:
    made = example(seed, *shape)
    total = shape[0] * shape[1]
    rows = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=12))
    found = operations(made.matrices).rows(mx.array(rows, mx.uint32), mx.float32)
    np.testing.assert_array_equal(np.array(found), made.values.reshape(total, -1)[rows])


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shape=shapes, count=st.integers(1, 20))
def test_vectors_and_matrices_times_blocks_are_what_numpy_multiplies(
    operations: Operations, seed: int, shape: tuple[int, int, int], count: int
) -> None:
    made = example(seed, 1, *shape[1:])
    x = np.random.default_rng(seed).normal(size=(1, count, shape[2])).astype(np.float32)
    found = operations(made.matrices).linear(mx.array(x))
    close(found, x, made.values[0], "bnk,ok->bno")


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shape=shapes, rows=st.integers(1, 7), share=st.integers(1, 3))
def test_each_row_is_multiplied_by_the_matrix_that_is_chosen_for_it(
    operations: Operations, seed: int, shape: tuple[int, int, int], rows: int, share: int
) -> None:
    made = example(seed, *shape)
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, shape[2])).astype(np.float32)
    indices = random.integers(0, shape[0], rows * share).astype(np.uint32)
    found = operations(made.matrices).gather_linear(mx.array(x), mx.array(indices))
    close(found, np.repeat(x, share, axis=0), made.values[indices], "nk,nok->no")


# Matrices, rows and columns, and how many vectors: rows that end inside a block, columns beyond the
# 32 blocks that go through at once, more rows and vectors than a tile has.
VECTORS = [
    ((1, 5, 4161), 1),
    ((1, 21, 2113), 1),
    ((1, 9, 130), 2),
    ((1, 9, 2113), 3),
    ((4, 9, 2113), 3),
]

TILES = [((1, 70, 100), 9), ((1, 3, 130), 66), ((3, 66, 70), 13), ((3, 5, 130), 70)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "count"), VECTORS + TILES)
def test_sums_are_float32_whatever_the_type_of_the_vectors(
    operations: Operations, shape: tuple[int, int, int], count: int, dtype: mx.Dtype
) -> None:
    made = example(count, *shape)
    random = np.random.default_rng(count)
    x = mx.array(random.normal(size=(count, shape[2]))).astype(dtype)
    exact = np.array(x.astype(mx.float32)).astype(np.float64)
    # Runs of one matrix, and single ones between them.
    indices = np.sort(random.integers(0, shape[0], count)).astype(np.uint32)
    indices[:: 5 + count // 3] = 0
    computed = operations(made.matrices)
    chosen = mx.array(indices)
    found = computed.linear(x) if shape[0] == 1 else computed.gather_linear(x, chosen)
    assert found.dtype == dtype
    values = made.values[indices].astype(np.float64)
    expected = np.einsum("nk,nok->no", exact, values)
    # Tiles may round values to the type; the errors of a sum add up like a random walk. Results are
    # rounded at the end.
    walk = 6 * np.sqrt(np.einsum("nk,nok->no", exact**2, values**2))
    magnitude = np.einsum("nk,nok->no", np.abs(exact), np.abs(values))
    allowed = ROUNDING[dtype] * (walk + np.abs(expected)) + 2e-6 * magnitude
    assert (np.abs(np.array(found.astype(mx.float32)) - expected) <= allowed).all()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_rows_of_16_bits_are_the_rounded_values(operations: Operations, dtype: mx.Dtype) -> None:
    made = example(2, 2, 6, 130)
    rows = mx.array([11, 0, 5, 6, 6], mx.uint32)
    expected = mx.array(made.values.reshape(12, -1))[rows].astype(dtype)
    assert mx.array_equal(operations(made.matrices).rows(rows, dtype), expected).item()


@pytest.mark.parametrize("count", [1, 9])
def test_what_fills_up_a_block_counts_for_nothing_even_where_16_bits_cannot_hold_it(
    operations: Operations, count: int
) -> None:
    # The padding's code 0 would stand for -76500; the others for -300 and 0.
    codes = np.random.default_rng(6).integers(254, 256, (1, 5, 70), dtype=np.uint8)
    ones = np.ones((1, 5, 2), dtype=np.float32)
    widths = np.full((1, 5, 2), 8, dtype=np.uint8)
    made = example_of(assemble_blocks(codes, ones * 300, ones * 255, widths))
    x = mx.full((count, 70), 0.5, mx.float16)
    found = np.array(operations(made.matrices).linear(x).astype(mx.float32))
    expected = np.full((count, 70), 0.5) @ made.values[0].T.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@needs(EMULATION["COMPILER"], "no C++ compiler is here")
@pytest.mark.parametrize("backend", ["metal", "cuda"])
def test_offsets_that_wrap_around_lead_to_the_bytes_beyond_four_gigabytes(
    backend: GpuBackend, program: Program
) -> None:
    made = example(4, 3, 5, 130)
    before = 2**32 - 1000
    offsets = np.array(made.matrices.block_offsets) + np.uint32(before)
    # Inside the second matrix.
    assert int(offsets[15]) > int(offsets.min()) < 1000
    moved = replace(
        made.matrices,
        block_offsets=mx.array(offsets),
        matrix_offsets=made.matrices.matrix_offsets + mx.array(before, mx.uint64),
    )
    operations = emulated(backend, program(backend), before)(moved)
    rows = operations.rows(mx.arange(15, dtype=mx.uint32), mx.float32)
    np.testing.assert_array_equal(np.array(rows), made.values.reshape(15, -1))
    for indices in (np.array([1, 2], np.uint32), np.repeat(np.arange(3, dtype=np.uint32), 5)):
        x = np.random.default_rng(1).normal(size=(len(indices), 130)).astype(np.float32)
        found = operations.gather_linear(mx.array(x), mx.array(indices))
        close(found, x, made.values[indices], "nk,nok->no")


def test_a_matrix_of_four_gigabytes_is_refused() -> None:
    widths = np.broadcast_to(np.uint8(8), (2**26,))
    arrays = dict.fromkeys(
        ("qweight", "scales", "zeros", "bit_map", "block_offsets"), mx.zeros((1,))
    )
    with pytest.raises(ModelError, match="found a matrix of 4294967296 bytes, expected below"):
        block_matrices(arrays, widths, (2**20, 64 * 64))


def block_module(module: nn.Module, made: Example) -> Any:
    operations = PlainOperations(made.matrices)
    return BLOCK_MODULES[type(module)](made.matrices, operations, mx.float32, module.get("bias"))


def random_like(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(len(shape)))


@pytest.mark.parametrize(
    ("module", "calls"),
    [
        (
            nn.Linear(70, 9),
            [lambda m: m(random_like(2, 3, 70)), lambda m: m(random_like(70))],
        ),
        (
            nn.Embedding(9, 70),
            [lambda m: m(mx.array([[0, 8, 3]])), lambda m: m.as_linear(random_like(1, 2, 70))],
        ),
        (
            SwitchLinear(70, 9, 4, bias=True),
            [
                # As SwitchGLU calls them: a token's row for its experts, rows sorted by expert,
                # and the down projection with a row for each expert.
                lambda m: m(random_like(1, 3, 1, 1, 70), mx.array([[[0, 3], [1, 1], [2, 0]]])),
                lambda m: m(random_like(4, 1, 70), mx.array([0, 1, 1, 3]), sorted_indices=True),
                lambda m: m(random_like(1, 3, 2, 1, 70), mx.array([[[0, 3], [1, 1], [2, 0]]])),
                lambda m: m(random_like(2, 5, 70), mx.array([3, 1])),
            ],
        ),
        (
            MultiLinear(70, 9, 4),
            [
                lambda m: m(random_like(2, 4, 3, 70)),
                lambda m: m(random_like(2, 1, 3, 70)),
                lambda m: m(random_like(2, 1, 3, 9), transpose=False),
                lambda m: m(random_like(2, 4, 1, 9), transpose=False),
            ],
        ),
    ],
    ids=["linear", "embedding", "experts", "heads"],
)
def test_a_block_module_is_called_like_the_one_that_it_replaces(
    module: nn.Module, calls: list[Callable[[Any], mx.array]]
) -> None:
    made = example(11, 4 if module["weight"].ndim == 3 else 1, 9, 70)
    module["weight"] = mx.array(made.values.reshape(module["weight"].shape))
    if "bias" in module:
        module["bias"] = random_like(*module["bias"].shape)
    ours = block_module(module, made)
    for call in calls:
        expected = call(module)
        found = call(ours)
        assert (found.shape, found.dtype) == (expected.shape, mx.float32)
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-4)
