"""A directory from one layout into the other, or into today's form of its own."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format._block_layout import BLOCK_SIZE, block_arrays
from jang_format._digests import DIGESTS_FILE
from jang_format._errors import InvalidTensorError, OutputError
from jang_format._files import locate
from jang_format._json import section
from jang_format._layouts import LAYOUTS, MLX_LAYOUT, Layout
from jang_format._manifest import (
    FORMAT,
    MANIFEST_FILE,
    READABLE_MANIFESTS,
    QuantizedModule,
    quantization_config,
)
from jang_format._matrices import count_matrices
from jang_format._mlx_layout import mlx_arrays
from jang_format._quantized import QuantizedTensor
from jang_format._reader import CONFIG_FILE, ModelDirectory
from jang_format._relayout import mlx_form, specs_for_blocks, specs_for_mlx, to_blocks, to_mlx
from jang_format._safetensors import StoredTensor, TensorSpec
from jang_format._version import __version__
from jang_format._writer import DirectoryWriter, open_writer

# Facts about the old files, under names that only their converter knows.
_STALE_PREFIX: Final = "tensor_quantization_manifest"


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: `done` of `total` bytes are written, `path` is at work."""

    done: int
    total: int
    path: str


@dataclass(frozen=True)
class LayoutConversion:
    """A finished conversion.

    Attributes:
        out: The directory written.
        layout: Its layout.
        modules: How many quantized modules it has.
        requantized: Paths of the modules whose codes changed in width or were fitted anew.
        source_bytes: Size of the source's weight files.
        weight_bytes: Size of the weight files written.
        seconds: Time it took.
    """

    out: Path
    layout: str
    modules: int
    requantized: tuple[str, ...]
    source_bytes: int
    weight_bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True)
class _Step:
    """One module or unquantized tensor to be written."""

    path: str
    shape: tuple[int, ...]
    specs: list[TensorSpec]
    arrays: Callable[[], Mapping[str, NDArray[Any]]]
    widths: tuple[int, ...] = ()
    bits: int | None = None
    group_size: int | None = None
    requantized: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of what is written."""
        return sum(spec.nbytes for spec in self.specs)


def convert_layout(
    directory: ModelDirectory,
    out: Path,
    layout: Layout,
    *,
    requantize: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> LayoutConversion:
    """Write a directory in a layout; see `to_mlx` and `to_blocks` for what happens to numbers.

    Args:
        directory: The source, in either layout, old or new.
        out: The directory to make; nothing stands there if the conversion does not end well.
        layout: The layout to write.
        requantize: Whether modules that the layout cannot hold as they are may change.
        on_progress: Called after every module.

    Raises:
        InvalidFileError: If the source breaks the format.
        InvalidTensorError: If a module does not fit into the layout; the message names it.
        OutputError: If `out` cannot be written.
    """
    started = time.monotonic()
    if directory.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise OutputError(f"OUT: found {out}, expected a directory outside {directory.path}")
    steps = [*_module_steps(directory, layout, requantize), *_other_steps(directory)]
    specs = [spec for step in steps for spec in step.specs]
    done, total = 0, sum(step.nbytes for step in steps)
    with open_writer(out, specs, layout=layout) as writer:
        for step in steps:
            for name, data in step.arrays().items():
                writer.write_tensor(name, data)
            done += step.nbytes
            on_progress(Progress(done=done, total=total, path=step.path))
        _write_descriptions(writer, directory, layout, steps)
        weight_bytes = writer.weight_bytes
    return LayoutConversion(
        out=out,
        layout=layout.name,
        modules=sum(step.bits is not None for step in steps),
        requantized=tuple(step.path for step in steps if step.requantized),
        source_bytes=directory.weight_bytes,
        weight_bytes=weight_bytes,
        seconds=time.monotonic() - started,
    )


def _module_steps(directory: ModelDirectory, layout: Layout, requantize: bool) -> Iterator[_Step]:
    for path in directory.quantized_paths():
        tensor = directory.quantized(path)
        make = _mlx_step if layout is MLX_LAYOUT else _block_step
        try:
            yield make(path, tensor, requantize)
        except InvalidTensorError as error:
            raise InvalidTensorError(f"{directory.path}: {path}: {error}") from error


def _mlx_step(path: str, tensor: QuantizedTensor, requantize: bool) -> _Step:
    form = mlx_form(tensor, requantize=requantize)
    return _Step(
        path=path,
        shape=tensor.shape,
        specs=specs_for_mlx(path, tensor, form),
        arrays=lambda: _named(path, mlx_arrays(to_mlx(tensor, form))),
        widths=(form.bits,),
        bits=form.bits,
        group_size=form.group_size,
        requantized=tensor.bits is None,
    )


def _block_step(path: str, tensor: QuantizedTensor, requantize: bool) -> _Step:
    return _Step(
        path=path,
        shape=tensor.shape,
        specs=specs_for_blocks(path, tensor, requantize=requantize),
        arrays=lambda: _named(path, block_arrays(to_blocks(tensor))),
        widths=tuple(np.unique(tensor.bit_map).tolist()),
        bits=tensor.bits or int(tensor.bit_map.max()),
        group_size=BLOCK_SIZE,
        requantized=tensor.group_size < BLOCK_SIZE,
    )


def _other_steps(directory: ModelDirectory) -> Iterator[_Step]:
    quantized = directory.quantized_names()
    for name, tensor in directory.tensors.items():
        if name not in quantized:
            yield _Step(name, tensor.spec.shape, [tensor.spec], partial(_mapped, tensor))


def _mapped(tensor: StoredTensor) -> dict[str, NDArray[Any]]:
    return {tensor.spec.name: tensor.map()}


def _named(path: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{path}.{part}": data for part, data in arrays.items()}


def _write_descriptions(
    writer: DirectoryWriter, directory: ModelDirectory, layout: Layout, steps: list[_Step]
) -> None:
    """Config and manifest of the new layout, and every other file as it is."""
    dropped = ("quantization", "quantization_config")
    config = {key: value for key, value in directory.config.items() if key not in dropped}
    if layout is MLX_LAYOUT:
        config["quantization"] = quantization_config(_modules(directory, steps))
    writer.write_json(CONFIG_FILE, config)
    content = _manifest(directory, layout, steps, writer.weight_bytes)
    writer.write_json(MANIFEST_FILE, content)
    made = {CONFIG_FILE, MANIFEST_FILE, DIGESTS_FILE, *READABLE_MANIFESTS}
    for known in LAYOUTS.values():
        made.update(known.readable_indexes)
    for name in directory.file_names:
        if name not in made and name not in directory.weight_files:
            writer.copy_file(name, locate(directory.path, name))


def _modules(directory: ModelDirectory, steps: list[_Step]) -> dict[str, QuantizedModule]:
    roles = section(directory.manifest, "roles")
    return {
        step.path: QuantizedModule(step.bits, step.group_size, str(roles.get(step.path, "")))
        for step in steps
        if step.bits is not None and step.group_size is not None
    }


def _manifest(
    directory: ModelDirectory, layout: Layout, steps: list[_Step], weight_bytes: int
) -> dict[str, Any]:
    """The old manifest with what the conversion has changed."""
    bits_per_weight = count_matrices((step.shape, step.nbytes) for step in steps).bits_per_weight
    old = section(directory.manifest, "quantization").items()
    quantization = {key: value for key, value in old if not key.startswith(_STALE_PREFIX)}
    quantization |= {
        "actual_bits": round(bits_per_weight, 4),
        "bits_per_weight": bits_per_weight,
        "block_size": max(
            (step.group_size for step in steps if step.group_size), default=BLOCK_SIZE
        ),
        "bit_widths_used": sorted({width for step in steps for width in step.widths}),
    }
    return {
        **directory.manifest,
        "format": FORMAT,
        "format_version": layout.version,
        "producer": f"jang-format {__version__}",
        "digests": DIGESTS_FILE,
        "quantization": quantization,
        "runtime": {"total_weight_bytes": weight_bytes},
    }
