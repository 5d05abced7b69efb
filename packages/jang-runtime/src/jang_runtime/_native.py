"""The compiled kernels for the CPU, if this installation has them.

The extension `jang_cpu` is compiled when jang-runtime is installed on a machine with a C++ compiler
(hatch_build.py). It uses MLX's C++ classes, so it runs only with the release of MLX that it was
compiled against; without it MLX's own operations do the work, slowly.
"""

import importlib
import os
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Final

import mlx.core as mx

from jang_runtime._errors import InvalidRequestError

_NAME: Final = "jang_cpu"
_VARIABLE: Final = "JANG_CPU_KERNELS"
_NONE: Final = "none"
_THREADS: Final = "JANG_THREADS"


@cache
def cpu_kernels() -> ModuleType | None:
    """The compiled extension; None if there is none that runs here.

    `$JANG_CPU_KERNELS` is `none`, or the instruction set to use; `$JANG_THREADS` says how many
    threads the kernels use, as many as there are processors if it does not.

    Raises:
        InvalidRequestError: If one of them is set to something else.
    """
    return None if _reason_against() else importlib.import_module(_NAME)


def cpu_kernels_description() -> str:
    """What computes on the CPU, in a line for people."""
    reason = _reason_against()
    if reason:
        return f"MLX's own CPU operations, which are slow: {reason}"
    native = importlib.import_module(_NAME)
    threads = native.thread_count()
    return f"{native.kernels_in_use()}, {threads} thread{'' if threads == 1 else 's'}"


@cache
def _reason_against() -> str:
    """Why the extension is not used; empty if it is."""
    wanted = os.environ.get(_VARIABLE, "")
    if wanted == _NONE:
        return f"${_VARIABLE} is {_NONE}"
    try:
        native = importlib.import_module(_NAME)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            return "jang-runtime was installed without a C++ compiler"
        return f"the compiled kernels do not load ({error})"
    installed = version("mlx")
    if native.mlx_version != installed:
        return (
            f"the kernels were compiled for mlx {native.mlx_version}, and {installed} is "
            "installed; install jang-runtime again"
        )
    try:
        # Arrays have to be passed between the two extensions' bindings.
        native.silu(mx.zeros((1,)))
    except TypeError:
        return (
            "the kernels were compiled with another nanobind than MLX; install jang-runtime again"
        )
    if wanted and not native.use_kernels(wanted):
        known = ", ".join([_NONE, *native.kernel_names()])
        raise InvalidRequestError(f"${_VARIABLE}", repr(wanted), f"one of {known}")
    threads = os.environ.get(_THREADS, "")
    if threads:
        if not threads.isdecimal() or int(threads) < 1:
            raise InvalidRequestError(f"${_THREADS}", repr(threads), "a number of threads")
        native.set_thread_count(int(threads))
    return ""
