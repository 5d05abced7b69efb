"""The conversion: source -> modules with roles -> plan -> method -> writer."""

import hashlib
import time
from collections.abc import Callable
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
    QuantizedTensor,
    dequantize,
    encode_floats,
    fits_f16,
    manifest,
    mlx_arrays,
    open_writer,
    quantization_config,
    refuse_existing,
)
from jang_quant._card import CARD_FILE, card
from jang_quant._errors import ConversionError, SourceError
from jang_quant._outcome import Conversion, ConvertedModule
from jang_quant._plan import DEFAULT_GROUP_SIZE, Plan, PlannedModule, make_plan
from jang_quant._profiles import Profile
from jang_quant._quantize import Quantize, Recipe, quantizer
from jang_quant._sources.source import Source, SourceTensor
from jang_runtime import JangRuntimeError
from jang_runtime.architecture import build_model, keeps_precision, quantizable_modules

VERSION: Final = "0.1.0"


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: `done` of `total` bytes are written, `path` is at work."""

    done: int
    total: int
    path: str


_PLAIN: Final = Recipe()


class _BeyondF16Error(Exception):
    """A value does not fit into float16."""


def plan_source(source: Source, profile: Profile, group_size: int = DEFAULT_GROUP_SIZE) -> Plan:
    """Plan the conversion of a source; reads no weights.

    Raises:
        SourceError: If mlx-lm cannot build the source's architecture.
        PlanError: If a module's role is not known.
    """
    try:
        model = build_model(source.config)
    except JangRuntimeError as error:
        raise SourceError(f"{source.name}: {error}") from error
    # Some classes drop their head where the checkpoint has none.
    modules = {
        path: shape
        for path, shape in quantizable_modules(model).items()
        if f"{path}.weight" in source.tensors
    }
    weights = {f"{path}.weight" for path in modules}
    others = {path: tensor for path, tensor in source.tensors.items() if path not in weights}
    return make_plan(
        modules,
        {path: tensor.shape for path, tensor in others.items()},
        profile,
        group_size,
        float32={
            path
            for path, tensor in others.items()
            if tensor.dtype == "F32" and keeps_precision(model, path)
        },
    )


def convert(
    source: Source,
    out: Path,
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    recipe: Recipe = _PLAIN,
) -> Conversion:
    """Quantize a source by a plan and write it in MLX layout.

    Scales, biases and unquantized tensors are stored as float16, or as bfloat16 if that is what the
    source has or if a value is beyond float16.

    Args:
        source: The model.
        out: The directory to make; nothing stands there if the conversion does not end well.
        plan: What each module gets.
        on_progress: Called after every tensor.
        recipe: Method and calibration.

    Raises:
        SourceError: If a tensor has NaN or infinite values.
        ConversionError: If `out` cannot be written.
    """
    refuse_output(source, out)
    started = time.monotonic()
    preferred = source.float_dtype
    try:
        try:
            weight_bytes, modules = _write(source, out, plan, recipe, preferred, on_progress)
        except _BeyondF16Error:
            preferred = "BF16"
            weight_bytes, modules = _write(source, out, plan, recipe, preferred, on_progress)
    except (JangFormatError, OSError) as error:
        raise ConversionError(str(error)) from error
    return Conversion(
        out=out,
        plan=plan,
        weight_bytes=weight_bytes,
        float_dtype=preferred,
        seconds=time.monotonic() - started,
        modules=modules,
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
    refuse_taken(out)


def refuse_taken(out: Path) -> None:
    """Refuse an output that exists already.

    Raises:
        ConversionError: If so.
    """
    try:
        refuse_existing(out)
    except JangFormatError as error:
        raise ConversionError(str(error)) from error


def _write(
    source: Source,
    out: Path,
    plan: Plan,
    recipe: Recipe,
    float_dtype: str,
    on_progress: Callable[[Progress], None],
) -> tuple[int, tuple[ConvertedModule, ...]]:
    """Write the whole directory; returns the bytes of its weight files, and what was written."""
    done, total = 0, plan.tensor_bytes
    converted: list[ConvertedModule] = []
    quantize = quantizer(recipe)
    with open_writer(out, plan.tensor_specs(float_dtype)) as writer:
        for module in plan.modules:
            name = f"{module.path}.weight"
            values = _finite_values(source, name, source.tensors[name])
            converted.append(_write_module(writer, module, values, float_dtype, quantize))
            done += converted[-1].nbytes
            on_progress(Progress(done=done, total=total, path=module.path))
        for path, other in plan.others.items():
            values = _finite_values(source, path, source.tensors[path])
            done += _write_floats(writer, path, values, other.dtype(float_dtype))
            on_progress(Progress(done=done, total=total, path=path))
        _write_descriptions(writer, source, plan, recipe)
        return writer.weight_bytes, tuple(converted)


def _finite_values(source: Source, name: str, tensor: SourceTensor) -> NDArray[np.float32]:
    values = tensor.read()
    # The sum is finite only if every value is, unless it overflows: then look at each.
    if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        raise SourceError(f"{source.name}: {name}: found NaN or infinity, expected finite weights")
    return values


def _write_module(
    writer: DirectoryWriter,
    module: PlannedModule,
    values: NDArray[np.float32],
    float_dtype: str,
    quantize: Quantize,
) -> ConvertedModule:
    started = time.monotonic()
    if module.bits is None or module.group_size is None:
        nbytes = _write_floats(writer, f"{module.path}.weight", values, float_dtype)
        error = 0.0
    else:
        # A fitted bias may lie a little outside the range of the values.
        _check_range(values * np.float32(1.25), float_dtype)
        quantized = quantize(module.path, values, module.bits, module.group_size, float_dtype)
        for part, data in mlx_arrays(quantized).items():
            writer.write_tensor(f"{module.path}.{part}", data)
        nbytes = quantized.nbytes
        error = _relative_error(quantized, values)
    return ConvertedModule(
        path=module.path,
        role=module.role,
        bits=module.bits,
        group_size=module.group_size,
        nbytes=nbytes,
        relative_error=error,
        seconds=time.monotonic() - started,
        note="",
    )


def _relative_error(quantized: QuantizedTensor, values: NDArray[np.float32]) -> float:
    size = float(np.square(values, dtype=np.float64).sum())
    off = float(np.square(dequantize(quantized) - values, dtype=np.float64).sum())
    return off / size if size else 0.0


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


def _write_descriptions(
    writer: DirectoryWriter, source: Source, plan: Plan, recipe: Recipe
) -> None:
    """Everything beside the weights: config, manifest, tokenizer."""
    modules = {
        module.path: QuantizedModule(module.bits, module.group_size, module.role)
        for module in plan.modules
        if module.bits is not None and module.group_size is not None
    }
    provenance = Provenance(
        source_name=source.name,
        source_dtype=source.dtype,
        source_quantization=source.quantization,
        architecture=str(source.config["model_type"]),
        profile=plan.name,
        method=recipe.method,
        calibration=_calibration_facts(recipe),
        bits_per_weight=plan.bits_per_weight,
        parameters=plan.parameters,
        producer=f"jang-quant {VERSION}",
    )
    config = dict(source.config) | {"quantization": quantization_config(modules)}
    writer.write_json("config.json", config)
    writer.write_json(MANIFEST_FILE, manifest(provenance, modules, writer.weight_bytes))
    writer.write_file(CARD_FILE, card(source, plan, provenance, writer.weight_bytes).encode())
    for name, content in source.side_files.items():
        writer.write_file(name, content if isinstance(content, bytes) else content.read_bytes())


def _calibration_facts(recipe: Recipe) -> dict[str, Any] | None:
    """What the manifest says of the calibration; None where there was none."""
    if recipe.calibration is None:
        return None
    text = recipe.calibration.text
    sequences, length = text.tokens.shape
    return {
        "text": text.origin,
        "sequences": sequences,
        "length": length,
        "seed": text.seed,
        "digest": hashlib.sha256(text.tokens.astype("<i4").tobytes()).hexdigest(),
    }
