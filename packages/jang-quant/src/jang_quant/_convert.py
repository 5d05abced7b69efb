"""The conversion: source -> modules with roles -> plan -> method -> writer."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format import (
    MANIFEST_FILE,
    DirectoryWriter,
    JangFormatError,
    Provenance,
    QuantizedModule,
    encode_floats,
    fits_f16,
    manifest,
    mlx_arrays,
    open_writer,
    quantization_config,
    refuse_existing,
)
from jang_quant._errors import ConversionError, SourceError
from jang_quant._methods import rtn
from jang_quant._plan import DEFAULT_GROUP_SIZE, Plan, PlannedModule, make_plan
from jang_quant._profiles import Profile
from jang_quant._sources.source import Source, SourceTensor
from jang_runtime import JangRuntimeError
from jang_runtime.architecture import build_model, quantizable_modules

VERSION: Final = "0.1.0"
METHOD: Final = "rtn"

# bf16 keeps its range: a model trained with it may have activations that f16 cannot hold.
_FLOAT_DTYPE_OF_SOURCE: Final = {"BF16": "BF16"}


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: `done` of `total` bytes are written, `path` is at work."""

    done: int
    total: int
    path: str


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        out: The directory written.
        plan: The plan it follows.
        weight_bytes: Size of the weight files.
        float_dtype: How scales, biases and unquantized tensors are stored.
        seconds: Time it took.
    """

    out: Path
    plan: Plan
    weight_bytes: int
    float_dtype: str
    seconds: float


class _BeyondF16Error(Exception):
    """A value does not fit into float16."""


def plan_source(source: Source, profile: Profile, group_size: int = DEFAULT_GROUP_SIZE) -> Plan:
    """Plan the conversion of a source; reads no weights.

    Raises:
        SourceError: If mlx-lm cannot build the source's architecture.
        PlanError: If a module's role is not known.
    """
    try:
        modules = quantizable_modules(build_model(source.config))
    except JangRuntimeError as error:
        raise SourceError(f"{source.name}: {error}") from error
    weights = {f"{path}.weight" for path in modules}
    others = {path: t.shape for path, t in source.tensors.items() if path not in weights}
    return make_plan(modules, others, profile, group_size)


def convert(
    source: Source,
    out: Path,
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Conversion:
    """Quantize a source by a plan and write it in MLX layout.

    Scales, biases and unquantized tensors are stored as float16, or as bfloat16 if that is what the
    source has or if a value is beyond float16.

    Args:
        source: The model.
        out: The directory to make; nothing stands there if the conversion does not end well.
        plan: What each module gets.
        on_progress: Called after every tensor.

    Raises:
        SourceError: If a tensor has NaN or infinite values.
        ConversionError: If `out` cannot be written.
    """
    refuse_output(source, out)
    started = time.monotonic()
    preferred = _float_dtype(source)
    try:
        try:
            weight_bytes = _write(source, out, plan, preferred, on_progress)
        except _BeyondF16Error:
            preferred = "BF16"
            weight_bytes = _write(source, out, plan, preferred, on_progress)
    except (JangFormatError, OSError) as error:
        raise ConversionError(str(error)) from error
    return Conversion(
        out=out,
        plan=plan,
        weight_bytes=weight_bytes,
        float_dtype=preferred,
        seconds=time.monotonic() - started,
    )


def refuse_output(source: Source, out: Path) -> None:
    """Refuse an output that exists, or that is the source or inside it.

    Raises:
        ConversionError: If so.
    """
    location = source.location.resolve() if source.location else None
    if location is not None and location in (out.resolve(), *out.resolve().parents):
        raise ConversionError(
            f"OUT: found {out}, expected a directory outside the source {location}"
        )
    try:
        refuse_existing(out)
    except JangFormatError as error:
        raise ConversionError(str(error)) from error


def _float_dtype(source: Source) -> str:
    """How most of the source's weights are stored decides how the result's floats are."""
    return _FLOAT_DTYPE_OF_SOURCE.get(_source_dtype(source), "F16")


def _source_dtype(source: Source) -> str:
    """The type in which most of the source's weights are stored."""
    weights = Counter[str]()
    for tensor in source.tensors.values():
        weights[tensor.dtype] += int(np.prod(tensor.shape))
    return weights.most_common(1)[0][0]


def _write(
    source: Source,
    out: Path,
    plan: Plan,
    float_dtype: str,
    on_progress: Callable[[Progress], None],
) -> int:
    """Write the whole directory; returns the bytes of its weight files."""
    done, total = 0, plan.tensor_bytes
    with open_writer(out, plan.tensor_specs(float_dtype)) as writer:
        for module in plan.modules:
            name = f"{module.path}.weight"
            values = _finite_values(source, name, source.tensors[name])
            done += _write_module(writer, module, values, float_dtype)
            on_progress(Progress(done=done, total=total, path=module.path))
        for path in plan.others:
            values = _finite_values(source, path, source.tensors[path])
            done += _write_floats(writer, path, values, float_dtype)
            on_progress(Progress(done=done, total=total, path=path))
        _write_descriptions(writer, source, plan)
        return writer.weight_bytes


def _finite_values(source: Source, name: str, tensor: SourceTensor) -> NDArray[np.float32]:
    values = tensor.read()
    # The sum is finite only if every value is, unless it overflows: then look at each.
    if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        raise SourceError(f"{source.name}: {name}: found NaN or infinity, expected finite weights")
    return values


def _write_module(
    writer: DirectoryWriter, module: PlannedModule, values: NDArray[np.float32], float_dtype: str
) -> int:
    if module.bits is None or module.group_size is None:
        return _write_floats(writer, f"{module.path}.weight", values, float_dtype)
    # A fitted bias may lie a little outside the range of the values.
    _check_range(values * np.float32(1.25), float_dtype)
    quantized = rtn.quantize(values, module.bits, module.group_size, float_dtype)
    for part, data in mlx_arrays(quantized).items():
        writer.write_tensor(f"{module.path}.{part}", data)
    return quantized.nbytes


def _write_floats(
    writer: DirectoryWriter, name: str, values: NDArray[np.float32], float_dtype: str
) -> int:
    _check_range(values, float_dtype)
    stored = encode_floats(values, float_dtype)
    writer.write_tensor(name, stored)
    return stored.nbytes


def _check_range(values: NDArray[np.float32], float_dtype: str) -> None:
    if float_dtype == "F16" and not fits_f16(values):
        raise _BeyondF16Error


def _write_descriptions(writer: DirectoryWriter, source: Source, plan: Plan) -> None:
    """Everything beside the weights: config, manifest, tokenizer."""
    modules = {
        module.path: QuantizedModule(module.bits, module.group_size, module.role)
        for module in plan.modules
        if module.bits is not None and module.group_size is not None
    }
    provenance = Provenance(
        source_name=source.name,
        source_dtype=_source_dtype(source),
        source_quantization=source.quantization,
        architecture=str(source.config["model_type"]),
        profile=plan.name,
        method=METHOD,
        bits_per_weight=plan.bits_per_weight,
        parameters=plan.parameters,
        producer=f"jang-quant {VERSION}",
    )
    writer.write_json("config.json", _config(source.config, modules))
    writer.write_json(MANIFEST_FILE, manifest(provenance, modules, writer.weight_bytes))
    for name, content in source.side_files.items():
        writer.write_file(name, content if isinstance(content, bytes) else content.read_bytes())


def _config(config: Mapping[str, Any], modules: Mapping[str, QuantizedModule]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    return kept | {"quantization": quantization_config(modules)}
