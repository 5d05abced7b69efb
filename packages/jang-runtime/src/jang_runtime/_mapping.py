"""Weights on the CPU as arrays over the mapped files: nothing is read before it is used."""

from types import ModuleType

import mlx.core as mx

from jang_format import ModelDirectory


def map_weights(directory: ModelDirectory, native: ModuleType) -> dict[str, mx.array]:
    """All tensors of a directory, over the page cache; several processes share the memory.

    The files must not be truncated while the arrays are used.
    """
    files = {name: native.open_file(str(directory.path / name)) for name in directory.weight_files}
    return {
        name: files[tensor.file.name].tensor(
            tensor.offset, list(tensor.spec.shape), tensor.spec.dtype
        )
        for name, tensor in directory.tensors.items()
    }
