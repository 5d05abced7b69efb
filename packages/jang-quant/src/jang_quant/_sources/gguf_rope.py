"""RoPE scaling: what a GGUF file says in its keys and factors, as mlx-lm's `rope_scaling`.

llama.cpp's and mlx-lm's linear and yarn are the same formula with the same defaults. The
"llama3" kind of Llama 3.1 is not in the keys: the converter leaves one factor for each frequency
in `rope_freqs.weight`, computed from four numbers, and here those numbers are found again.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_quant._sources.gguf_architectures import Architecture
from jang_quant._sources.gguf_header import GgufHeader, mismatch, optional
from jang_quant._sources.gguf_tensors import read_values

ROPE_FACTORS: Final = "rope_freqs.weight"

# At position 131 072 this moves the fastest frequency that is scaled by a thousandth of a turn.
_TOLERANCE: Final = 1e-5
# Yarn keys whose value mlx-lm's class takes for granted.
_YARN_FIXED: Final = {
    "attn_factor": 1.0,
    "yarn_attn_factor": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_log_multiplier": 0.0,
}
# The keys that are read here.
ROPE_KEYS: Final = frozenset(
    {
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        *(f"rope.scaling.{name}" for name in _YARN_FIXED),
    }
)


def rope_scaling(
    header: GgufHeader, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The `rope_scaling` of the config, or None for plain RoPE.

    Raises:
        SourceError: If mlx-lm's class for the architecture cannot compute what the file asks for.
    """
    scaling = _from_keys(header, architecture, config)
    if ROPE_FACTORS not in header.tensors or "llama3" not in architecture.rope_scaling:
        return scaling
    if scaling is not None:
        raise mismatch(
            header.path, ROPE_FACTORS, f"factors and {scaling['rope_type']} scaling", "one of them"
        )
    return _from_factors(header, config)


def _from_keys(
    header: GgufHeader, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    prefix = f"{architecture.name}.rope."
    factor = optional(header, f"{prefix}scaling.factor", float)
    if factor is None:
        factor = optional(header, f"{prefix}scale_linear", float)
    # llama.cpp takes a factor without a type for linear, and 0 for no factor.
    kind = optional(header, f"{prefix}scaling.type", str) or "linear"
    if kind == "none" or (kind == "linear" and factor in (None, 0.0, 1.0)):
        return None
    if kind not in architecture.rope_scaling:
        raise mismatch(
            header.path,
            f"{prefix}scaling.type",
            repr(kind),
            f"one that mlx-lm computes for {architecture.name}: "
            f"{', '.join(sorted({'none', *architecture.rope_scaling} - {'llama3'}))}",
        )
    if factor is None or factor <= 0:
        raise mismatch(header.path, f"{prefix}scaling.factor", repr(factor), "more than 0")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    return scaling | _yarn(header, f"{prefix}scaling.", config) if kind == "yarn" else scaling


def _yarn(header: GgufHeader, prefix: str, config: Mapping[str, Any]) -> dict[str, Any]:
    for name, fixed in _YARN_FIXED.items():
        value = optional(header, prefix + name, float)
        if value is not None and value != fixed:
            raise mismatch(
                header.path, prefix + name, repr(value), f"{fixed}, all that mlx-lm computes"
            )
    original = optional(header, f"{prefix}original_context_length", int)
    betas = {
        key: optional(header, f"{prefix}yarn_{key}", float) for key in ("beta_fast", "beta_slow")
    }
    return {
        "original_max_position_embeddings": original or config["max_position_embeddings"],
        **{key: value for key, value in betas.items() if value is not None},
    }


def _from_factors(header: GgufHeader, config: Mapping[str, Any]) -> dict[str, Any] | None:
    info = header.tensors[ROPE_FACTORS]
    if info.shape != (config["head_dim"] // 2,):
        raise mismatch(
            header.path, ROPE_FACTORS, f"shape {info.shape}", f"({config['head_dim'] // 2},)"
        )
    factors = read_values(header.path, info).astype(np.float64)
    if np.all(factors == 1.0):
        return None
    size: int = config["head_dim"]
    base: float = config["rope_theta"]
    wavelengths = 2 * math.pi * np.power(base, np.arange(0, size, 2, dtype=np.float64) / size)
    scaling = find_llama3(factors, wavelengths)
    if scaling is None:
        raise mismatch(
            header.path,
            ROPE_FACTORS,
            "factors that follow no llama3 scaling",
            "the only kind that mlx-lm computes",
        )
    return {"rope_type": "llama3", **scaling}


def find_llama3(
    factors: NDArray[np.float64], wavelengths: NDArray[np.float64]
) -> dict[str, Any] | None:
    """The numbers of a llama3 scaling that gives these factors, or None if there are none.

    Short wavelengths have the factor 1, long ones the full factor, and between the two the
    reciprocal is linear in the frequency; so two frequencies from between determine everything
    but a common multiple of the last three numbers, which cancels out.

    Args:
        factors: What each wavelength is stretched by.
        wavelengths: In tokens.
    """
    usual = _llama3(float(factors.max()), low=1.0, high=4.0, original=8192)
    for candidate in (usual, _fit_llama3(factors, wavelengths)):
        if candidate is not None and np.allclose(
            llama3_factors(candidate, wavelengths), factors, rtol=_TOLERANCE, atol=0
        ):
            return candidate
    return None


def llama3_factors(
    scaling: Mapping[str, Any], wavelengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a llama3 scaling stretches each wavelength by."""
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = scaling["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _fit_llama3(
    factors: NDArray[np.float64], wavelengths: NDArray[np.float64]
) -> dict[str, Any] | None:
    factor = float(factors.max())
    between = (factors > 1 + _TOLERANCE) & (factors < factor * (1 - _TOLERANCE))
    if between.sum() < 2:
        return None
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    slope, intercept = (float(c) for c in np.polyfit(1 / wavelengths[between], smooth, 1))
    if slope <= 0 or intercept >= 0:
        return None
    # With low = 1: smooth = (original / wavelength - 1) / (high - 1).
    high = 1 - 1 / intercept
    return _llama3(factor, low=1.0, high=_tidy(high), original=round(-slope / intercept))


def _llama3(factor: float, *, low: float, high: float, original: int) -> dict[str, Any]:
    return {
        "factor": _tidy(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _tidy(value: float) -> float:
    """A value found through float32 is right to six digits; more would only look odd."""
    return float(f"{value:.6g}")
