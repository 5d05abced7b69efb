"""The compiled kernels as operations of MLX's graph: what they take, refuse and promise."""

import threading
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jang_runtime._cpu_functions import with_cpu_functions
from jang_runtime._errors import InvalidRequestError
from jang_runtime._native import cpu_kernels, cpu_kernels_description

pytestmark = pytest.mark.skipif(cpu_kernels() is None, reason="the kernels were not compiled")


@pytest.fixture(scope="module")
def native() -> ModuleType:
    kernels = cpu_kernels()
    assert kernels is not None
    return kernels


def packed(rows: int, columns: int, bits: int = 4) -> tuple[mx.array, mx.array, mx.array]:
    mx.random.seed(rows * columns)
    return mx.quantize(mx.random.normal((rows, columns)), 32, bits)


@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    rows=st.integers(1, 70),
    groups=st.integers(1, 9),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_order_of_x_gives_what_mlx_gives(
    leading: list[int], rows: int, groups: int, bits: int, seed: int
) -> None:
    native = cpu_kernels()
    assert native is not None
    columns = 32 * groups
    matrix = packed(rows, columns, bits)
    values = np.random.default_rng(seed).normal(size=(columns, *leading)).astype(np.float32)
    # Transposed, so that it does not lie in order.
    x = mx.moveaxis(mx.array(values), 0, -1)
    found = native.packed_linear(x, *matrix, 32, bits)
    expected = mx.quantized_matmul(x, *matrix, group_size=32, bits=bits)
    assert found.shape == expected.shape
    # Of what is added up, for sums may cancel.
    added = mx.abs(x) @ mx.abs(mx.dequantize(*matrix, group_size=32, bits=bits)).T
    assert mx.all(mx.abs(found - expected) <= 4e-6 * added)


def test_the_number_of_threads_changes_no_bit(native: ModuleType) -> None:
    matrix = packed(900, 2048)
    before = native.thread_count()
    for count in (1, 40):
        x = mx.random.normal((count, 2048))
        results: list[bytes] = []
        for threads in (1, 2, 5):
            native.set_thread_count(threads)
            results.append(bytes(native.packed_linear(x, *matrix, 32, 4)))
        assert len(set(results)) == 1
    native.set_thread_count(before)


def test_every_instruction_set_of_this_processor_agrees(native: ModuleType) -> None:
    matrix = packed(100, 640, 5)
    x = mx.random.normal((3, 640))
    best = native.kernels_in_use()
    results: list[mx.array] = []
    for name in native.kernel_names():
        assert native.use_kernels(name)
        results.append(native.packed_linear(x, *matrix, 32, 5))
        mx.eval(results)
    native.use_kernels(best)
    for each in results:
        assert mx.abs(each - results[0]).max() <= 1e-5 * mx.abs(results[0]).max()
    assert not native.use_kernels("VAX")


def test_two_threads_may_compute_at_once(native: ModuleType) -> None:
    matrix = packed(300, 1024)
    x = mx.random.normal((1, 1024))
    expected = native.packed_linear(x, *matrix, 32, 4)
    mx.eval(matrix, x, expected)
    wrong: list[int] = []

    def compute(which: int) -> None:
        for _ in range(50):
            if not mx.array_equal(native.packed_linear(x, *matrix, 32, 4), expected):
                wrong.append(which)
        mx.clear_streams()

    threads = [threading.Thread(target=compute, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": mx.zeros((1, 96))}, r"x: found float32 \(1,96\), expected float32 \[..., 64\]"),
        ({"x": mx.zeros((1, 64), mx.float16)}, "x: found float16"),
        ({"bits": 7}, "bits: found 7, expected 2, 3, 4, 5, 6 or 8"),
        ({"group_size": 48}, "group_size: found 48"),
        ({"weight": mx.zeros((8, 9), mx.uint32)}, "weight: found uint32"),
        ({"biases": mx.zeros((8, 1))}, "biases: found float32"),
    ],
    ids=["columns", "dtype", "bits", "group", "weight", "biases"],
)
def test_arrays_that_do_not_fit_are_refused_before_anything_runs(
    native: ModuleType, change: dict[str, mx.array | int], message: str
) -> None:
    weight, scales, biases = packed(8, 64)
    arguments = {
        "x": mx.zeros((1, 64)),
        "weight": weight,
        "scales": scales,
        "biases": biases,
        "group_size": 32,
        "bits": 4,
    } | change
    with pytest.raises(ValueError, match=message):
        native.packed_linear(*arguments.values())


@pytest.mark.parametrize("offset", [4, 5, 64])
def test_a_mapped_tensor_is_the_files_bytes_wherever_they_lie(
    native: ModuleType, tmp_path: Path, offset: int
) -> None:
    values = np.arange(30, dtype=np.float32).reshape(5, 6)
    file = tmp_path / "tensors"
    file.write_bytes(b"\xff" * offset + values.tobytes())
    tensor = native.open_file(str(file)).tensor(offset, [5, 6], "F32")
    file.unlink()
    assert mx.array_equal(tensor, mx.array(values))
    assert mx.array_equal(tensor * 2, mx.array(values * 2))


def test_a_tensor_beyond_its_file_is_refused(native: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "tensors"
    file.write_bytes(bytes(100))
    with pytest.raises(IndexError, match="ends beyond its file"):
        native.open_file(str(file)).tensor(8, [24], "F32")


@pytest.mark.parametrize("name", ["silu", "swiglu", "softmax", "rms_norm", "rope"])
def test_a_function_compiled_for_every_shape_takes_another_one(
    native: ModuleType, name: str
) -> None:
    more = {
        "swiglu": lambda x: (x,),
        "rms_norm": lambda x: (mx.ones((8,)), 1e-5),
        "rope": lambda x: (8, False, 10000.0, 1.0, mx.array(3), None),
    }.get(name, lambda x: ())

    # mlx-lm compiles its activations so.
    compiled = mx.compile(lambda x: getattr(native, name)(x, *more(x)), shapeless=True)
    for length in (5, 1, 3):
        x = mx.random.normal((1, 2, length, 8))
        assert mx.array_equal(compiled(x), getattr(native, name)(x, *more(x)))


class Failing(nn.Module):
    def __call__(self) -> None:
        assert mx.softmax is not softmax
        raise RuntimeError("a fault of the model")


softmax = mx.softmax


def test_mlx_has_its_own_functions_back_after_a_model_fails() -> None:
    with pytest.raises(RuntimeError, match="a fault of the model"):
        with_cpu_functions(Failing())()
    assert mx.softmax is softmax


@pytest.mark.parametrize(
    ("name", "value"),
    [("JANG_CPU_KERNELS", "MMX"), ("JANG_THREADS", "none"), ("JANG_THREADS", "0")],
)
def test_a_setting_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    from jang_runtime import _native

    monkeypatch.setenv(name, value)
    _native._reason_against.cache_clear()
    try:
        with pytest.raises(InvalidRequestError, match=rf"\${name}: found '{value}', expected"):
            cpu_kernels_description()
    finally:
        _native._reason_against.cache_clear()
