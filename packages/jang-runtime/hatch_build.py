"""Compiles the CPU kernels in native/ while the wheel is built.

They become the module `jang_cpu` beside the package. Where that cannot be done (no compiler, not
Linux, or $JANG_CPU_KERNELS is "none") the wheel is built without them and the runtime falls back to
MLX's own operations; it says so when it starts. The installation never fails because of them.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "jang_cpu"
# nanobind's internals have to be those that MLX was built with: mlx 0.32 has those of nanobind 3.
REQUIREMENTS = ["mlx[cpu]>=0.32,<0.33", "nanobind>=3,<4"]


def compiler() -> list[str]:
    """The C++ compiler's command; empty if there is none."""
    command = os.environ.get("CXX", "").split() or ["c++"]
    return command if shutil.which(command[0]) else []


def reason_against() -> str:
    """Why the kernels are not compiled here; empty if they can be tried."""
    if os.environ.get("JANG_CPU_KERNELS") == "none":
        return "$JANG_CPU_KERNELS is none"
    if sys.platform != "linux":
        return "they are for Linux"
    if not compiler():
        return "there is no C++ compiler (g++ or clang++, or $CXX)"
    return ""


class CpuKernelsHook(BuildHookInterface[Any]):
    """Adds the compiled module to wheels, editable ones too."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the compilation needs beside hatchling."""
        return [] if self.target_name != "wheel" or reason_against() else REQUIREMENTS

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the module into the wheel."""
        if self.target_name != "wheel":
            return
        reason = reason_against()
        if reason:
            self.app.display_warning(f"{MODULE} is not compiled: {reason}")
            return
        self._folder = Path(tempfile.mkdtemp(prefix=f"{MODULE}-"))
        try:
            library = compile_module(Path(self.root) / "native", self._folder)
        except (subprocess.CalledProcessError, OSError) as error:
            output = getattr(error, "stderr", None) or ""
            self.app.display_warning(f"{MODULE} is not compiled: {error}\n{output[-4000:]}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        key = "force_include_editable" if version == "editable" else "force_include"
        build_data[key][str(library)] = library.name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled; the wheel has it."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def compile_module(native: Path, folder: Path) -> Path:
    """Compile every source of native/ and nanobind's own, and link them.

    Raises:
        subprocess.CalledProcessError: With the compiler's messages in `stderr`.
        OSError: If MLX, nanobind or the compiler are not where they should be.
    """
    mlx = package_folder("mlx")
    nanobind = package_folder("nanobind")
    flags = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-DNB_DOMAIN=mlx"]
    for include in (
        mlx / "include",
        nanobind / "include",
        nanobind / "ext" / "robin_map" / "include",
        Path(sysconfig.get_path("include")),
    ):
        flags += ["-isystem", str(include)]
    commands: list[tuple[Path, list[str]]] = []
    levels = levels_of(native)
    for source in sorted(native.glob("*.cpp")):
        if source.name.startswith("isa_") and source.name not in levels:
            continue
        commands.append((source, [f"-I{native}", *levels.get(source.name, [])]))
    # As nanobind's own build does it.
    commands.append((nanobind / "src" / "nb_combined.cpp", ["-fno-strict-aliasing", "-w"]))
    # The linker keeps the first of an inline function that several objects hold: it has to be one
    # without special instructions.
    commands.sort(key=lambda command: bool(levels.get(command[0].name)))
    objects = [folder / f"{source.stem}.o" for source, _ in commands]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(
            pool.map(
                run,
                [
                    [*compiler(), *flags, *own, "-c", str(source), "-o", str(target)]
                    for (source, own), target in zip(commands, objects, strict=True)
                ],
            )
        )
    library = folder / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    # No path to libmlx: MLX's module is imported first and has loaded it.
    run(
        [*compiler(), "-shared", "-s", "-o", str(library)]
        + [str(target) for target in objects]
        + [f"-L{mlx / 'lib'}", "-lmlx", "-pthread"]
    )
    return library


def levels_of(native: Path) -> dict[str, list[str]]:
    """Sources of the instruction sets that this machine's processors may have, with options."""
    tables = tomllib.loads((native / "levels.toml").read_text(encoding="utf-8"))
    return tables.get(platform.machine(), tables["other"])


def package_folder(name: str) -> Path:
    """Where an installed package lies.

    Raises:
        OSError: If it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise OSError(f"{name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def run(command: list[str]) -> None:
    """Run a compiler's command.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    subprocess.run(command, check=True, capture_output=True, text=True)
