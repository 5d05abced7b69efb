"""The tensors of a plan: read, quantized and written at the same time.

One thread reads the next tensor and another writes the last one, while the method uses all cores
for the one between: three modules are in memory at most. What a process before this one has written
is not made again; of each module that is there whole, a line in a file says what became of it.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_format import (
    DirectoryWriter,
    InvalidTensorError,
    LayoutName,
    QuantizedTensor,
    block_arrays,
    decode_floats,
    encode_floats,
    mlx_arrays,
    to_blocks,
)
from jang_quant._conversion import ConvertedModule
from jang_quant._errors import SourceError
from jang_quant._methods._result import Quantized
from jang_quant._plan import Plan, PlannedModule, module_specs
from jang_quant._quantize import Quantize, Values
from jang_quant._sources.source import Source

# Bytes that are done, and what is at work.
OnBytes = Callable[[int, str], None]


class BeyondF16Error(Exception):
    """A value does not fit into float16."""


@dataclass(frozen=True)
class _Step:
    """One tensor of the source, and what is to be made of it.

    Attributes:
        path: Module path, or that of a parameter that is no module.
        name: Name of the tensor in the source.
        names: Names of the tensors that are written.
        nbytes: Bytes that are written for it.
        dtype: How it is stored if it is not quantized.
        layout: How it is stored if it is.
        module: None for a parameter that cannot be quantized.
    """

    path: str
    name: str
    names: tuple[str, ...]
    nbytes: int
    dtype: str
    layout: LayoutName
    module: PlannedModule | None


@dataclass(frozen=True)
class _Made:
    """The arrays of a step, and what became of the module."""

    step: _Step
    arrays: Mapping[str, NDArray[Any]]
    module: ConvertedModule | None


def write_tensors(
    source: Source,
    plan: Plan,
    writer: DirectoryWriter,
    quantize: Quantize,
    float_dtype: str,
    journal: Path | None,
    on_bytes: OnBytes,
) -> tuple[ConvertedModule, ...]:
    """Write all tensors of a plan.

    Args:
        source: The model.
        plan: What each module gets.
        writer: Takes the tensors.
        quantize: The method.
        float_dtype: How scales, biases and unquantized tensors are stored.
        journal: File of lines on the modules that are done; None to keep none.
        on_bytes: Called after every tensor.

    Raises:
        SourceError: If a tensor has NaN or infinite values.
        BeyondF16Error: If a value does not fit into `float_dtype`.
    """
    known = {} if journal is None else _read_lines(journal)
    steps = [step for step in _steps(plan, float_dtype) if not _is_done(step, writer, known)]
    done = plan.tensor_bytes - sum(step.nbytes for step in steps)
    converted = dict(known)
    with _threads() as (reading, writing):
        upcoming = reading.submit(_read, source, steps[0]) if steps else None
        written: tuple[_Step, Future[None]] | None = None

        def settle() -> None:
            nonlocal done
            if written is not None:
                step, future = written
                future.result()
                done += step.nbytes
                on_bytes(done, step.path)

        for step, following in zip(steps, [*steps[1:], None], strict=True):
            assert upcoming is not None
            values, dtype = upcoming.result()
            upcoming = None if following is None else reading.submit(_read, source, following)
            made = _make(source, step, values, dtype, quantize, float_dtype)
            settle()
            written = step, writing.submit(_write, writer, made, journal)
            if made.module is not None:
                converted[step.path] = made.module
        settle()
    return tuple(converted[module.path] for module in plan.modules)


@contextmanager
def _threads() -> Generator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """A thread that reads and one that writes."""
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        try:
            yield reading, writing
        finally:
            # A thread that ends with MLX's streams open brings the process down.
            reading.submit(mx.clear_streams)


def _steps(plan: Plan, float_dtype: str) -> list[_Step]:
    modules = [
        _Step(
            path=module.path,
            name=f"{module.path}.weight",
            names=tuple(s.name for s in module_specs(module, plan.layout, float_dtype)),
            nbytes=module.nbytes,
            dtype=float_dtype,
            layout=plan.layout,
            module=module,
        )
        for module in plan.modules
    ]
    others = [
        _Step(path, path, (path,), other.nbytes, other.dtype(float_dtype), plan.layout, None)
        for path, other in plan.others.items()
    ]
    return modules + others


def _is_done(step: _Step, writer: DirectoryWriter, known: Mapping[str, ConvertedModule]) -> bool:
    """Whether a process before this one has written all of a step."""
    if step.module is None:
        return step.name in writer.written
    return step.path in known and all(name in writer.written for name in step.names)


def _read(source: Source, step: _Step) -> tuple[Values, str]:
    """Values as float32, or bfloat16 as uint16, and which of the two."""
    values, dtype = source.tensors[step.name].load()
    return (decode_floats(values, dtype), "F32") if dtype == "F16" else (values, dtype)


def _block_arrays(tensor: QuantizedTensor) -> dict[str, NDArray[Any]]:
    return block_arrays(to_blocks(tensor))


_PARTS: Final[Mapping[LayoutName, Callable[[QuantizedTensor], dict[str, NDArray[Any]]]]] = {
    "mlx": mlx_arrays,
    "blocks": _block_arrays,
}


def _make(
    source: Source, step: _Step, values: Values, dtype: str, quantize: Quantize, float_dtype: str
) -> _Made:
    started = time.monotonic()
    module = step.module
    if module is None or module.bits is None or module.group_size is None:
        arrays = {step.name: _stored(source, step, decode_floats(values, dtype))}
        note, error = "", 0.0
    else:
        found = _quantized(source, step, values, quantize, module, float_dtype)
        parts = _PARTS[step.layout](found.tensor)
        arrays = {f"{step.path}.{part}": data for part, data in parts.items()}
        note, error = found.note, found.squared_error / found.squares if found.squares else 0.0
    if module is None:
        return _Made(step, arrays, None)
    return _Made(
        step,
        arrays,
        ConvertedModule(
            path=module.path,
            role=module.role,
            bits=module.bits,
            group_size=module.group_size,
            nbytes=module.nbytes,
            relative_error=error,
            seconds=time.monotonic() - started,
            note=note,
        ),
    )


def _quantized(
    source: Source,
    step: _Step,
    values: Values,
    quantize: Quantize,
    module: PlannedModule,
    float_dtype: str,
) -> Quantized:
    assert module.bits is not None
    assert module.group_size is not None
    # Blocks have F16 scales.
    dtype = "F16" if step.layout == "blocks" else float_dtype
    try:
        found = quantize(module.path, values, module.bits, module.group_size, dtype)
    except InvalidTensorError as error:
        # What is no number goes into no scale either.
        _check_finite(source, step, values)
        if float_dtype == "F16":
            raise BeyondF16Error from error
        raise
    scales = decode_floats(found.tensor.scales, found.tensor.dtype)
    if not (np.isfinite(found.squares) and np.isfinite(scales).all()):
        _check_finite(source, step, values)
    return found


def _stored(source: Source, step: _Step, values: NDArray[np.float32]) -> NDArray[Any]:
    _check_finite(source, step, values)
    try:
        return encode_floats(values, step.dtype)
    except InvalidTensorError as error:
        raise BeyondF16Error from error


def _check_finite(source: Source, step: _Step, values: Values) -> None:
    """Refuse NaN and infinity; bfloat16, as uint16, has them where all bits of 0x7f80 are set."""
    whole = (values & 0x7F80) != 0x7F80 if values.itemsize == 2 else np.isfinite(values)
    if not whole.all():
        raise SourceError(
            f"{source.name}: {step.name}: found NaN or infinity, expected finite weights"
        )


def _write(writer: DirectoryWriter, made: _Made, journal: Path | None) -> None:
    for name, data in made.arrays.items():
        if name not in writer.written:
            writer.write_tensor(name, data)
    if journal is not None and made.module is not None:
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(made.module)) + "\n")


def _read_lines(journal: Path) -> dict[str, ConvertedModule]:
    """Modules that are done, by path; a line that is not whole is left out."""
    if not journal.exists():
        return {}
    found: dict[str, ConvertedModule] = {}
    for line in journal.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            module = ConvertedModule(**cast(dict[str, Any], json.loads(line)))
        except (ValueError, TypeError):
            continue
        found[module.path] = module
    return found
