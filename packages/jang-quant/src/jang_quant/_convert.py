"""The conversion: source -> modules with roles -> plan -> method -> writer."""

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jang_format import (
    LAYOUTS,
    MANIFEST_FILE,
    DirectoryWriter,
    JangFormatError,
    LayoutName,
    Progress,
    Provenance,
    QuantizedModule,
    manifest,
    open_writer,
    quantization_config,
    refuse_existing,
)
from jang_quant._card import CARD_FILE, card
from jang_quant._conversion import Conversion, ConvertedModule
from jang_quant._errors import ConversionError, SourceError
from jang_quant._pipeline import BeyondF16Error, write_tensors
from jang_quant._plan import DEFAULT_GROUP_SIZE, Plan, make_plan
from jang_quant._profiles import Profile
from jang_quant._quantize import Recipe, quantizer
from jang_quant._sources.source import Source
from jang_quant._version import __version__
from jang_runtime import JangRuntimeError
from jang_runtime.architecture import build_model, keeps_precision, quantizable_modules

_PLAIN: Final = Recipe()


def plan_source(
    source: Source,
    profile: Profile,
    group_size: int = DEFAULT_GROUP_SIZE,
    layout: LayoutName = "mlx",
) -> Plan:
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
        layout=layout,
    )


def convert(
    source: Source,
    out: Path,
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    recipe: Recipe = _PLAIN,
    folder: Path | None = None,
) -> Conversion:
    """Quantize a source by a plan and write it in the plan's layout.

    Scales, biases and unquantized tensors are stored as float16, or as bfloat16 if that is what the
    source has or if a value is beyond float16.

    Args:
        source: The model.
        out: The directory to make; nothing stands there if the conversion does not end well.
        plan: What each module gets.
        on_progress: Called after every tensor.
        recipe: Method and calibration.
        folder: Where work that is broken off stays and is taken up again (`work_folder`); None for
            work that is removed then.

    Raises:
        SourceError: If a tensor has NaN or infinite values.
        ConversionError: If `out` cannot be written.
    """
    refuse_output(source, out)
    started = time.monotonic()
    preferred = source.float_dtype
    if folder is not None and (folder / _WIDER).exists():
        preferred = "BF16"
    try:
        _check_space(out, plan, folder)
        try:
            weight_bytes, modules = _write(
                source, out, plan, recipe, preferred, on_progress, folder
            )
        except BeyondF16Error:
            preferred = "BF16"
            if folder is not None:
                (folder / _WIDER).touch()
                (folder / _MODULES).unlink(missing_ok=True)
            weight_bytes, modules = _write(
                source, out, plan, recipe, preferred, on_progress, folder
            )
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


# In the folder of the work: that float16 is too narrow, and what became of each module.
_WIDER: Final = "bfloat16"
_MODULES: Final = "modules.jsonl"


def _check_space(out: Path, plan: Plan, folder: Path | None) -> None:
    """Refuse a disk on which the result does not fit, with what is there of it already.

    Raises:
        ConversionError: If it does not.
    """
    free = shutil.disk_usage(_nearest_directory(out)).free
    if folder is not None:
        # Not their sizes: a file that is being written has holes.
        free += sum(file.stat().st_blocks * 512 for file in folder.glob("directory/*"))
    if free < plan.tensor_bytes:
        raise ConversionError(
            f"OUT: found {free / 1e9:,.2f} GB free on the disk of {out}, expected "
            f"{plan.tensor_bytes / 1e9:,.2f} GB"
        )


def _nearest_directory(path: Path) -> Path:
    """The directory that is there already, on the way to a path."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


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
    folder: Path | None,
) -> tuple[int, tuple[ConvertedModule, ...]]:
    """Write the whole directory; returns the bytes of its weight files, and what was written."""
    total = plan.tensor_bytes

    def on_bytes(done: int, path: str) -> None:
        on_progress(Progress(done=done, total=total, path=path))

    layout = LAYOUTS[plan.layout]
    specs = plan.tensor_specs(float_dtype)
    with open_writer(out, specs, layout=layout, resume=folder) as writer:
        modules = write_tensors(
            source,
            plan,
            writer,
            quantizer(recipe),
            float_dtype,
            None if folder is None else folder / _MODULES,
            on_bytes,
        )
        # What was read while a file changed is neither the one nor the other.
        source.refuse_changes()
        _write_descriptions(writer, source, plan, recipe)
        return writer.weight_bytes, modules


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
        producer=f"jang-quant {__version__}",
    )
    config = dict(source.config)
    if plan.layout == "mlx":
        config["quantization"] = quantization_config(modules)
    writer.write_json("config.json", config)
    writer.write_json(
        MANIFEST_FILE, manifest(provenance, modules, writer.weight_bytes, LAYOUTS[plan.layout])
    )
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
