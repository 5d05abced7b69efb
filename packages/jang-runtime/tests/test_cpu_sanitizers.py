"""The CPU kernels by themselves, without MLX or Python, under the compiler's sanitizers.

A longer run is `check_kernels SEED ROUNDS`, built with the commands below.
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


@pytest.fixture(scope="module")
def check_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler, or this is not Linux")
    folder = tmp_path_factory.mktemp("sanitized")
    tables = tomllib.loads((NATIVE / "levels.toml").read_text(encoding="utf-8"))
    options = tables.get(platform.machine(), tables["other"])
    sources = [*(NATIVE / name for name in options), *map(NATIVE.joinpath, OTHERS)]
    flags = ["-std=c++20", "-O0", "-g", f"-I{NATIVE}", *SANITIZED]
    commands = [
        ["c++", *flags, *options.get(source.name, []), "-c", source, "-o", folder / source.stem]
        for source in sources
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    program = folder / "check_kernels.out"
    objects = [folder / source.stem for source in sources]
    subprocess.run(["c++", *SANITIZED, *objects, "-o", program, "-pthread"], check=True)
    return program


OTHERS = ["kernels.cpp", "threads.cpp", "products.cpp", "../tests/native/check_kernels.cpp"]


@pytest.mark.parametrize("seed", [1, 2])
def test_kernels_give_the_sums_of_doubles_and_touch_no_byte_beyond(
    check_kernels: Path, seed: int
) -> None:
    done = subprocess.run([check_kernels, str(seed), "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
