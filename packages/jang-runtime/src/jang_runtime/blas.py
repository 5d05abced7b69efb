"""A fast BLAS under MLX's CPU backend on Linux.

MLX's wheel for Linux calls `cblas_sgemm` and brings netlib's reference BLAS for it, one core and no
vectors: 1-4 GFLOP/s where an optimized library reaches 50-90. The dynamic linker gives the symbol
to whoever was loaded first; so an optimized library is loaded before MLX is, with its symbols
visible. MKL from the extra `blas` is taken, or the system's OpenBLAS. `$JANG_BLAS` names another
library, or `none`. On macOS MLX uses Accelerate, and nothing is done.
"""

import ctypes
import ctypes.util
import glob
import os
import sys
from typing import Final

__all__ = ["blas_in_use"]

_VARIABLE: Final = "JANG_BLAS"
_NONE: Final = "none"
_SYMBOL: Final = "cblas_sgemm"


class _SymbolInfo(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("file_base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    )


def blas_in_use() -> str:
    """What multiplies float32 matrices on the CPU: the file name of a library, or MLX's own."""
    if sys.platform != "linux":
        return "Accelerate"
    library = ctypes.CDLL(None)
    try:
        address = ctypes.cast(getattr(library, _SYMBOL), ctypes.c_void_p)
    except AttributeError:
        return "MLX's own (slow; see the extra `blas`)"
    found = _SymbolInfo()
    library.dladdr(address, ctypes.byref(found))
    return os.path.basename(found.file or b"?").decode(errors="replace")


def _interpose() -> None:
    """Load an optimized BLAS, unless MLX is there already or nobody has one."""
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return
    wanted = os.environ.get(_VARIABLE, "")
    for name in [wanted] if wanted else _known_libraries():
        if name == _NONE:
            return
        # One thread of MLX's multiplies at a time; MKL's own thread library may be missing.
        os.environ.setdefault("MKL_THREADING_LAYER", "SEQUENTIAL")
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


def _known_libraries() -> list[str]:
    """Optimized libraries of this machine, the fastest first."""
    mkl = sorted(glob.glob(os.path.join(sys.prefix, "lib", "libmkl_rt.so*")), reverse=True)
    openblas = ctypes.util.find_library("openblas")
    return [*mkl, *([openblas] if openblas else [])]


# At import: once MLX is loaded it is too late.
_interpose()
