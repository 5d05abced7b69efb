"""The CPU kernels by themselves, without MLX or Python, under the compiler's sanitizers.

A longer run is `check_kernels SEED ROUNDS`, built as `build` does it.
"""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[1] / "native"
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


OTHERS = ["kernels.cpp", "threads.cpp", "products.cpp", "../tests/native/check_kernels.cpp"]


def build(folder: Path, compiler: str, machine: str, *flags: str) -> Path:
    """The checking program for a machine."""
    tables = tomllib.loads((NATIVE / "levels.toml").read_text(encoding="utf-8"))
    options = tables.get(machine, tables["other"])
    sources = [NATIVE / name for name in (*options, *OTHERS)]
    common = [compiler, "-std=c++20", "-O0", "-g", f"-I{NATIVE}", *flags, "-c"]
    commands = [
        [*common, *options.get(source.name, []), source, "-o", folder / source.stem]
        for source in sources
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    program = folder / "program"
    objects = [folder / source.stem for source in sources]
    subprocess.run([compiler, *flags, *objects, "-o", program, "-pthread"], check=True)
    return program


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler, or this is not Linux")
    return build(tmp_path_factory.mktemp("sanitized"), "c++", platform.machine(), *SANITIZED)


@pytest.mark.parametrize("seed", [1, 2])
def test_kernels_give_the_sums_of_doubles_and_touch_no_byte_beyond(
    sanitized: Path, seed: int
) -> None:
    done = subprocess.run([sanitized, str(seed), "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


ARM_COMPILER = "aarch64-linux-gnu-g++"
ARM_EMULATOR = "qemu-aarch64-static"


@pytest.mark.skipif(
    shutil.which(ARM_COMPILER) is None or shutil.which(ARM_EMULATOR) is None,
    reason=f"needs {ARM_COMPILER} and {ARM_EMULATOR}",
)
def test_kernels_for_arm_give_the_sums_of_doubles_in_an_emulator(tmp_path: Path) -> None:
    program = build(tmp_path, ARM_COMPILER, "aarch64", "-static")
    done = subprocess.run([ARM_EMULATOR, program, "1", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
