"""The compiled CPU kernels of jang-runtime, where they were built."""

import importlib
import importlib.util
from types import ModuleType


def cpu_kernels() -> ModuleType | None:
    """The compiled extension `jang_cpu`; None where it was not built."""
    if importlib.util.find_spec("jang_cpu") is None:
        return None
    return importlib.import_module("jang_cpu")


def cpu_kernels_description() -> str:
    """Which kernels compute quantized layers on the CPU, in a few words for people."""
    return "MLX's own" if cpu_kernels() is None else "compiled"
