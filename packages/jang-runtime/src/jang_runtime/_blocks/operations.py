"""What computes with block matrices: the one place that asks for the backend."""

from jang_runtime._backend import Backend
from jang_runtime._blocks.gpu import gpu_operations
from jang_runtime._blocks.matrices import BlockMatrices, BlockOperations
from jang_runtime._blocks.native import NativeOperations
from jang_runtime._blocks.plain import PlainOperations
from jang_runtime._native import cpu_kernels


def operations_for(matrices: BlockMatrices, backend: Backend) -> BlockOperations:
    """The fastest operations that a backend has."""
    if backend != "cpu":
        return gpu_operations(matrices, backend)
    kernels = cpu_kernels()
    return PlainOperations(matrices) if kernels is None else NativeOperations(matrices, kernels)
