"""The two JSON descriptions of a directory: jang_config.json, and `quantization` of config.json.

`quantization` in config.json is what stock MLX programs read: group size, bits and mode, and the
same three for each quantized module under its module path, nothing else. jang_config.json says
where the model comes from and what it was made with.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jang_format._block_layout import BLOCK_SIZE
from jang_format._digests import DIGESTS_FILE
from jang_format._errors import InvalidFileError, Report, UnsupportedVersionError, describe
from jang_format._files import read_json
from jang_format._json import section
from jang_format._layouts import LAYOUTS, MLX_LAYOUT, Layout
from jang_format._packing import BIT_WIDTHS
from jang_format._quantized import GROUP_SIZES

FORMAT: Final = "jang"
MANIFEST_FILE: Final = "jang_config.json"
READABLE_FORMATS: Final = (FORMAT, "jjqf", "mxq")
READABLE_MANIFESTS: Final = (MANIFEST_FILE, "jjqf_config.json", "jang_cfg.json", "mxq_config.json")
_MAJORS: Final = tuple(layout.major for layout in LAYOUTS.values())
# What stock readers are told to take for modules without an entry, where there are none at all.
_NO_MODULES: Final = (max(BIT_WIDTHS), BLOCK_SIZE)


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
        bits_per_weight: As `count_matrices` counts them.
        parameters: Number of weights of the model.
        producer: Program and version that wrote the directory.
        calibration: The text that was run through the source: origin, tokens, seed, digest; None
            without calibration.
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
    calibration: Mapping[str, Any] | None = None


def quantization_config(modules: Mapping[str, QuantizedModule]) -> dict[str, Any]:
    """The `quantization` entry of config.json for modules by module path.

    The top-level bits and group size, which readers fall back on, are the most frequent ones.
    """
    common = Counter((module.bits, module.group_size) for module in modules.values())
    bits, group_size = common.most_common(1)[0][0] if common else _NO_MODULES
    entry: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
    for path, module in sorted(modules.items()):
        entry[path] = {"group_size": module.group_size, "bits": module.bits, "mode": "affine"}
    return entry


def manifest(
    provenance: Provenance,
    modules: Mapping[str, QuantizedModule],
    weight_bytes: int,
    layout: Layout = MLX_LAYOUT,
) -> dict[str, Any]:
    """The content of jang_config.json for a directory whose weight files have `weight_bytes`."""
    return {
        "format": FORMAT,
        # A string, never a number: existing loaders split it at the dot.
        "format_version": layout.version,
        "producer": provenance.producer,
        "digests": DIGESTS_FILE,
        "quantization": {
            "profile": provenance.profile,
            "method": provenance.method,
            "quantization_scheme": "asymmetric",
            "calibration": None if provenance.calibration is None else dict(provenance.calibration),
            # The next two under the names that existing loaders read.
            "target_bits": round(provenance.bits_per_weight, 4),
            "actual_bits": round(provenance.bits_per_weight, 4),
            "bits_per_weight": provenance.bits_per_weight,
            "block_size": max(
                (module.group_size for module in modules.values()), default=BLOCK_SIZE
            ),
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


def read_manifest(directory: Path, names: list[str], report: Report) -> tuple[str, dict[str, Any]]:
    """The manifest of a directory with these files: its name and content, empty without one.

    Raises:
        InvalidFileError: If it is no JSON object.
    """
    name = next((name for name in READABLE_MANIFESTS if name in names), None)
    if name is None:
        return MANIFEST_FILE, {}
    file = directory / name
    content = read_json(file)
    if content.get("format", FORMAT) not in READABLE_FORMATS:
        found = describe(content["format"])
        report(UnsupportedVersionError(file, "format", found, repr(FORMAT)))
    if content.get("weight_format", "mlx") not in ("mlx", "affine"):
        found = describe(content["weight_format"])
        report(UnsupportedVersionError(file, "weight_format", found, "'mlx'"))
    version = content.get("format_version", MLX_LAYOUT.version)
    if major_version(version) not in _MAJORS:
        report(UnsupportedVersionError(file, "format_version", describe(version), "'1.0' or '2.0'"))
    if section(content, "quantization").get("hadamard_rotation"):
        # The weights are rotated, and a reader that does not undo it gets numbers without meaning.
        report(UnsupportedVersionError(file, "quantization.hadamard_rotation", "true", "false"))
    return name, content


def major_version(version: Any) -> str | None:
    """The major version of a `format_version`; None where it is none. Old files have integers."""
    if type(version) is int and 0 < version < 100:
        return str(version)
    if isinstance(version, str):
        major, _, minor = version.partition(".")
        if major.isdecimal() and (minor or "0").isdecimal():
            return major
    return None


def block_size(file: Path, manifest: Mapping[str, Any]) -> int:
    """Size of the blocks in block layout, where the tensors do not tell.

    Raises:
        InvalidFileError: If it is no size that a block can have.
    """
    stated = section(manifest, "quantization").get("block_size", BLOCK_SIZE)
    if type(stated) is not int or stated not in GROUP_SIZES:
        wanted = f"one of {GROUP_SIZES}"
        raise InvalidFileError(file, "quantization.block_size", describe(stated), wanted)
    return stated
