"""The fourteen operations of docs/operations.md, each against numpy in float64.

They run as models call them, on the backend of this machine: on a CPU through the compiled kernels
where they are, on a GPU through MLX's. Tolerances are relative to the largest value that can come
out: 1e-5 for float32, whose sums have up to a few hundred terms here, and 2e-2 for bfloat16, which
has 8 bits of precision and is used on GPUs only.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.activations import swiglu
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from numpy.typing import NDArray

from jang_format import assemble_packed, dequantize
from jang_runtime._backend import detect_backend
from jang_runtime._cpu_functions import with_cpu_functions
from jang_runtime._cpu_layers import use_cpu_layers
from jang_runtime._native import cpu_kernels

Doubles = NDArray[np.float64]

ON_CPU = detect_backend() == "cpu"
DTYPES = [mx.float32] if ON_CPU else [mx.float32, mx.bfloat16]
TOLERANCE = {mx.float32: 1e-5, mx.bfloat16: 2e-2}
PAIRS = [(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]

pytestmark = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Caller(nn.Module):
    """A model that only calls a function."""

    def __init__(self, function: Callable[..., mx.array]) -> None:
        super().__init__()
        self.function = function

    def __call__(self, *arguments: mx.array) -> mx.array:
        return self.function(*arguments)


def as_models_call(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    caller = Caller(function)
    return with_cpu_functions(caller) if ON_CPU and cpu_kernels() is not None else caller


class Holder(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def as_models_hold(layer: nn.Module) -> Any:
    holder = Holder(layer)
    if ON_CPU and cpu_kernels() is not None:
        use_cpu_layers(holder)
        assert type(holder.layer) is not type(layer), "the compiled kernels take no part"
    return holder.layer


def random(dtype: mx.Dtype, *shape: int, seed: int = 0) -> tuple[mx.array, Doubles]:
    """Normal values that the type has exactly."""
    generator = np.random.default_rng([seed, *shape])
    array = mx.array(generator.normal(size=shape).astype(np.float32)).astype(dtype)
    return array, doubles(array)


def doubles(array: mx.array) -> Doubles:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def hold(found: mx.array, expected: Doubles, dtype: mx.Dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    off = np.abs(doubles(found) - expected).max()
    assert off <= TOLERANCE[dtype] * np.abs(expected).max(), f"{off} off"


def quantized(
    dtype: mx.Dtype, bits: int, group_size: int, *leading: int
) -> tuple[tuple[mx.array, mx.array, mx.array], Doubles]:
    """Packed matrices of `[..., 40, 384]` and their values, decoded by jang_format."""
    values, _ = random(mx.float32, *leading, 40, 384, seed=bits)
    codes, scales, biases = mx.quantize(values, group_size, bits)
    # Scales that 16 bits have, stored as such where activations are in float32 too.
    scales, biases = (each.astype(mx.bfloat16).astype(dtype) for each in (scales, biases))
    exact = (doubles(each).astype(np.float32) for each in (scales, biases))
    tensor = assemble_packed(np.array(codes), *exact, bits=bits, dtype="BF16")
    return (codes, scales, biases), dequantize(tensor).astype(np.float64)


def quantized_linear(
    packed: tuple[mx.array, mx.array, mx.array], bits: int, group_size: int
) -> nn.QuantizedLinear:
    layer = nn.QuantizedLinear(384, 40, bias=False, group_size=group_size, bits=bits)
    layer.weight, layer.scales, layer.biases = packed
    return layer


def softmax(scores: Doubles) -> Doubles:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(queries: Doubles, keys: Doubles, values: Doubles, scale: float) -> Doubles:
    """Each query sees the keys up to its own place, the last query being at the last key."""
    repeat = queries.shape[1] // keys.shape[1]
    scores = scale * queries @ np.repeat(keys, repeat, axis=1).swapaxes(-1, -2)
    length, positions = scores.shape[-2:]
    hidden = np.arange(positions) > np.arange(length)[:, None] + positions - length
    scores[..., hidden] = -np.inf
    return softmax(scores) @ np.repeat(values, repeat, axis=1)


@pytest.mark.parametrize(("bits", "group_size"), PAIRS)
def test_packed_codes_become_their_values(dtype: mx.Dtype, bits: int, group_size: int) -> None:
    packed, values = quantized(dtype, bits, group_size)
    rows = mx.arange(40)
    layer = nn.QuantizedEmbedding(40, 384, group_size=group_size, bits=bits)
    layer.weight, layer.scales, layer.biases = packed
    hold(as_models_hold(layer)(rows), values, dtype)


@pytest.mark.parametrize(("bits", "group_size"), PAIRS)
def test_a_packed_matrix_times_a_vector(dtype: mx.Dtype, bits: int, group_size: int) -> None:
    packed, values = quantized(dtype, bits, group_size)
    x, exact = random(dtype, 1, 1, 384)
    layer = as_models_hold(quantized_linear(packed, bits, group_size))
    hold(layer(x), exact @ values.T, dtype)


@pytest.mark.parametrize(("bits", "group_size"), PAIRS)
def test_a_packed_matrix_times_a_matrix(dtype: mx.Dtype, bits: int, group_size: int) -> None:
    if mx.cuda.is_available() and dtype == mx.float32 and group_size == 128:
        pytest.skip("MLX 0.32.4 cannot launch its CUDA kernel for float32 in groups of 128")
    packed, values = quantized(dtype, bits, group_size)
    x, exact = random(dtype, 2, 33, 384)
    layer = as_models_hold(quantized_linear(packed, bits, group_size))
    hold(layer(x), exact @ values.T, dtype)


@pytest.mark.parametrize("tokens", [1, 2, 50])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_packed_matrix_of_each_tokens_experts(dtype: mx.Dtype, bits: int, tokens: int) -> None:
    packed, values = quantized(dtype, bits, 64, 7)
    layer = QuantizedSwitchLinear(384, 40, 7, bias=False, group_size=64, bits=bits)
    layer.weight, layer.scales, layer.biases = packed
    x, exact = random(dtype, tokens, 384)
    experts = np.random.default_rng(tokens).integers(0, 7, size=(tokens, 3))
    found = as_models_hold(layer)(mx.expand_dims(x, (-2, -3)), mx.array(experts))
    expected = np.einsum("tk,teok->teo", exact, values[experts])
    hold(mx.squeeze(found, -2), expected, dtype)


@pytest.mark.parametrize("positions", [1, 17, 700])
def test_one_query_of_grouped_heads_sees_all_keys(dtype: mx.Dtype, positions: int) -> None:
    (q, exact_q), (k, exact_k), (v, exact_v) = (
        random(dtype, 2, heads, length, 64, seed=heads + length)
        for heads, length in ((6, 1), (2, positions), (2, positions))
    )
    attend = as_models_call(
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.2)
    )
    hold(attend(q, k, v), attention(exact_q, exact_k, exact_v, 0.2), dtype)


@pytest.mark.parametrize(("length", "positions"), [(33, 33), (20, 150)])
def test_queries_of_a_prompt_see_the_keys_before_them(
    dtype: mx.Dtype, length: int, positions: int
) -> None:
    (q, exact_q), (k, exact_k), (v, exact_v) = (
        random(dtype, 1, heads, steps, 64, seed=heads + steps)
        for heads, steps in ((6, length), (2, positions), (2, positions))
    )
    attend = as_models_call(
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.2, mask="causal")
    )
    hold(attend(q, k, v), attention(exact_q, exact_k, exact_v, 0.2), dtype)


def test_quantized_embedding_takes_rows_and_is_a_head(dtype: mx.Dtype) -> None:
    packed, values = quantized(dtype, 6, 64)
    layer = nn.QuantizedEmbedding(40, 384, group_size=64, bits=6)
    layer.weight, layer.scales, layer.biases = packed
    layer = as_models_hold(layer)
    tokens = np.array([[3, 39, 0], [3, 7, 1]])
    hold(layer(mx.array(tokens)), values[tokens], dtype)
    x, exact = random(dtype, 1, 3, 384)
    hold(layer.as_linear(x), exact @ values.T, dtype)


def test_rms_norm(dtype: mx.Dtype) -> None:
    (x, exact), (weight, exact_weight) = random(dtype, 2, 5, 100), random(dtype, 100)
    norm = as_models_call(lambda x, weight: mx.fast.rms_norm(x, weight, 1e-5))
    expected = exact * exact_weight / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5)
    hold(norm(x, weight), expected, dtype)


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("dimensions", [64, 48])
def test_rope(dtype: mx.Dtype, dimensions: int, traditional: bool) -> None:
    # As models have it: heads before steps, which lie the other way round.
    x, exact = random(dtype, 1, 7, 3, 64)
    rotate = as_models_call(
        lambda x: mx.fast.rope(
            x, dimensions, traditional=traditional, base=10000.0, scale=1.0, offset=11
        )
    )
    half = dimensions // 2
    angles = (11 + np.arange(7))[:, None] * 10000.0 ** (-np.arange(half) / half)
    cosines, sines = np.cos(angles), np.sin(angles)
    expected = exact.swapaxes(1, 2).copy()
    first = np.s_[..., 0:dimensions:2] if traditional else np.s_[..., :half]
    second = np.s_[..., 1:dimensions:2] if traditional else np.s_[..., half:dimensions]
    a, b = expected[first].copy(), expected[second].copy()
    expected[first], expected[second] = a * cosines - b * sines, a * sines + b * cosines
    hold(rotate(mx.swapaxes(x, 1, 2)), expected, dtype)


def test_softmax(dtype: mx.Dtype) -> None:
    x, exact = random(dtype, 3, 1000)
    take = as_models_call(lambda x: mx.softmax(x, axis=-1, precise=True))
    hold(take(x), softmax(exact), dtype)


def test_silu(dtype: mx.Dtype) -> None:
    x, exact = random(dtype, 3, 100)
    hold(as_models_call(nn.silu)(x), exact / (1 + np.exp(-exact)), dtype)


def test_swiglu(dtype: mx.Dtype) -> None:
    (gate, exact_gate), (up, exact_up) = random(dtype, 3, 100), random(dtype, 3, 100, seed=1)
    expected = exact_gate / (1 + np.exp(-exact_gate)) * exact_up
    hold(as_models_call(lambda gate, up: swiglu(gate, up))(gate, up), expected, dtype)


def test_add(dtype: mx.Dtype) -> None:
    (a, exact_a), (b, exact_b) = random(dtype, 3, 100), random(dtype, 3, 100, seed=1)
    hold(as_models_call(lambda a, b: a + b)(a, b), exact_a + exact_b, dtype)


def test_embedding(dtype: mx.Dtype) -> None:
    layer = nn.Embedding(40, 384)
    layer.weight, values = random(dtype, 40, 384)
    tokens = np.array([[3, 39, 0], [3, 7, 1]])
    hold(as_models_hold(layer)(mx.array(tokens)), values[tokens], dtype)
