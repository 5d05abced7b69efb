import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.rope_utils import Llama3RoPE

from jang_quant._sources.gguf_rope import find_llama3, llama3_factors

LLAMA_3_1 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def wavelengths(size: int, base: float) -> np.ndarray:
    return 2 * math.pi * base ** (np.arange(0, size, 2) / size)


@pytest.mark.parametrize(
    ("scaling", "size"), [(LLAMA_3_1, 128), (LLAMA_3_1 | {"factor": 32.0}, 64)]
)
def test_the_scaling_of_llama_3_is_found_from_its_factors(
    scaling: dict[str, float], size: int
) -> None:
    waves = wavelengths(size, 500000.0)
    factors = llama3_factors(scaling, waves).astype(np.float32).astype(np.float64)
    assert find_llama3(factors, waves) == scaling
    # And these factors are what mlx-lm's class stretches its wavelengths by.
    rope = Llama3RoPE(size, base=500000.0, scaling_config=scaling)
    stretched = np.array(rope._freqs) / (waves / (2 * math.pi))
    np.testing.assert_allclose(stretched, factors, rtol=1e-5)


@given(
    factor=st.integers(2, 64),
    low=st.integers(1, 4),
    ratio=st.floats(1.5, 16),
    original=st.integers(256, 131072),
    base=st.floats(5e3, 5e6),
    size=st.sampled_from([64, 96, 128, 256]),
)
def test_any_llama3_scaling_is_found_or_given_up_but_never_wrong(
    factor: int, low: int, ratio: float, original: int, base: float, size: int
) -> None:
    waves = wavelengths(size, base)
    scaling = {
        "factor": float(factor), "low_freq_factor": float(low), "high_freq_factor": low * ratio,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    factors = llama3_factors(scaling, waves).astype(np.float32).astype(np.float64)
    found = find_llama3(factors, waves)
    between = ((factors > 1.001) & (factors < factor * 0.999)).sum()
    saturated = factors.max() == factor
    if found is not None:
        np.testing.assert_allclose(llama3_factors(found, waves), factors, rtol=1e-5)
    elif between >= 2 and saturated:
        # Only where the context length is a fraction of a token off, for low is 1 here.
        assert original / low != original // low
