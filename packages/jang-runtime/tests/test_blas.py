"""MLX's CPU backend multiplies with a fast BLAS where there is one."""

import ctypes.util
import os
import subprocess
import sys

import pytest

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")

PROGRAM = """
import jang_quant, mlx.core as mx
from jang_runtime.blas import blas_in_use
product = mx.full((64, 64), 2.0) @ mx.full((64, 64), 3.0)
print(blas_in_use(), product[0, 0].item())
"""


def ran(library: str | None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "JANG_BLAS"}
    environment |= {"JANG_BLAS": library} if library else {}
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return ended.stdout.strip()


@linux_only
def test_without_a_library_mlx_has_its_own() -> None:
    assert ran("none") == "MLX's own (slow; see the extra `blas`) 384.0"
    assert ran("/nowhere/libblas.so") == ran("none")


@linux_only
@pytest.mark.skipif(not ctypes.util.find_library("openblas"), reason="no OpenBLAS on this system")
def test_the_systems_openblas_is_loaded_before_mlx() -> None:
    assert ran(ctypes.util.find_library("openblas")).startswith("libopenblas")
    library, product = ran(None).rsplit(" ", 1)
    assert library.startswith(("libopenblas", "libmkl"))
    assert product == "384.0"
