"""Writing one safetensors file: tensor by tensor, there whole or not at all."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import STORAGE
from jang_format._errors import InvalidTensorError, OutputError
from jang_format._safetensors import TensorSpec, lay_out
from jang_format._whole_file import whole_file


def write_tensor_file(
    file: Path,
    specs: Iterable[TensorSpec],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file whose tensors come one at a time, in any order.

    Args:
        file: The file; it replaces one that is there.
        specs: All tensors of the file.
        tensors: Each of them once, by name; bfloat16 as raw uint16.
        metadata: `__metadata__` of the file.

    Raises:
        InvalidTensorError: If a tensor was not announced so, or one is missing.
        OutputError: If the file cannot be written.
    """
    announced = {spec.name: spec for spec in specs}
    layout = lay_out(announced.values(), metadata)
    missing = set(announced)
    try:
        with whole_file(file) as stream:
            stream.write(layout.header)
            for name, values in tensors:
                _check(announced.get(name), name, values)
                stream.seek(layout.offsets[name])
                stream.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
                missing.remove(name)
            if missing:
                raise InvalidTensorError(f"{min(missing)}: announced but not written")
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error


def _check(spec: TensorSpec | None, name: str, values: NDArray[Any]) -> None:
    if spec is None or values.shape != spec.shape or values.dtype != STORAGE[spec.dtype]:
        raise InvalidTensorError(f"{name}: found {values.dtype} {values.shape}, announced {spec}")
