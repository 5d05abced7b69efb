"""The two JSON descriptions of a directory in MLX layout: jang_config.json and `quantization`.

`quantization` in config.json is what stock MLX programs read: group size, bits and mode, and the
same three for each quantized module under its module path, nothing else. jang_config.json says
where the model comes from and what it was made with.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

FORMAT: Final = "jang"
MLX_LAYOUT_VERSION: Final = "2.0"
MANIFEST_FILE: Final = "jang_config.json"
INDEX_FILE: Final = "model.safetensors.index.json"


@dataclass(frozen=True)
class QuantizedModule:
    """How one module of the model is quantized.

    Attributes:
        bits: One of 2, 3, 4, 5, 6, 8.
        group_size: One of 32, 64, 128.
        role: What the module is for, such as "attention".
    """

    bits: int
    group_size: int
    role: str


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from and how it was made.

    Attributes:
        source_name: What was converted.
        source_dtype: How most of the source's weights were stored, such as "BF16" or "Q4_1".
        source_quantization: What the source itself was quantized with; None in full precision.
        architecture: `model_type` of config.json.
        profile: Name of the profile or budget.
        method: Quantization method, such as "rtn".
        bits_per_weight: Over all quantizable matrices, embeddings included, with scales and biases.
        parameters: Number of weights of the model.
        producer: Program and version that wrote the directory.
    """

    source_name: str
    source_dtype: str
    source_quantization: str | None
    architecture: str
    profile: str
    method: str
    bits_per_weight: float
    parameters: int
    producer: str


def quantization_config(modules: Mapping[str, QuantizedModule]) -> dict[str, Any]:
    """The `quantization` entry of config.json for modules by module path.

    The top-level bits and group size, which readers fall back on, are the most frequent ones.
    """
    common = Counter((module.bits, module.group_size) for module in modules.values())
    bits, group_size = common.most_common(1)[0][0] if common else (8, 64)
    entry: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
    for path, module in sorted(modules.items()):
        entry[path] = {"group_size": module.group_size, "bits": module.bits, "mode": "affine"}
    return entry


def manifest(
    provenance: Provenance, modules: Mapping[str, QuantizedModule], weight_bytes: int
) -> dict[str, Any]:
    """The content of jang_config.json for a directory whose weight files have `weight_bytes`."""
    return {
        "format": FORMAT,
        # A string, never a number: existing loaders split it at the dot.
        "format_version": MLX_LAYOUT_VERSION,
        "producer": provenance.producer,
        "quantization": {
            "profile": provenance.profile,
            "method": provenance.method,
            "quantization_scheme": "asymmetric",
            # The next two under the names that existing loaders read.
            "target_bits": round(provenance.bits_per_weight, 4),
            "actual_bits": round(provenance.bits_per_weight, 4),
            "bits_per_weight": provenance.bits_per_weight,
            "block_size": max((module.group_size for module in modules.values()), default=64),
            "bit_widths_used": sorted({module.bits for module in modules.values()}),
        },
        "source_model": {
            "name": provenance.source_name,
            "dtype": provenance.source_dtype,
            "quantization": provenance.source_quantization,
            "parameters": provenance.parameters,
        },
        "architecture": {"type": provenance.architecture},
        "runtime": {"total_weight_bytes": weight_bytes},
        "roles": {path: module.role for path, module in sorted(modules.items())},
    }
