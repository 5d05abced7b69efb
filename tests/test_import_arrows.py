"""Packages import each other only along the arrows of the design."""

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Libraries that are loaded without Python, by jang_runtime.blas.
NOT_IMPORTED = {"mkl"}

# Which of our packages each may import. jang-format and jang-eval have no MLX.
ARROWS = {
    "jang_proto": set(),
    "jang_format": set(),
    "jang_runtime": {"jang_format", "jang_proto"},
    "jang_quant": {"jang_format", "jang_runtime"},
    "jang_eval": {"jang_proto"},
    "jang": {"jang_eval", "jang_format", "jang_proto", "jang_quant", "jang_runtime"},
}
WITHOUT_MLX = {"jang_proto", "jang_format", "jang_eval"}

# Names to import where the distribution is called otherwise.
DISTRIBUTIONS = {
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "mlx_lm": "mlx-lm",
}

# Names that several distributions share; what stands below them tells which it is.
SHARED = {"google"}


def sources() -> dict[str, Path]:
    """The source directory of each package."""
    found = [*ROOT.glob("packages/*/src/*"), *ROOT.glob("proto/src/*")]
    return {path.name: path for path in found if (path / "__init__.py").exists()}


def imports_of(package: Path) -> set[str]:
    """Top-level names that a package's modules import, wherever in them."""
    names: set[str] = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(imported_name(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(imported_name(node.module))
    return names - {package.name}


def imported_name(module: str) -> str:
    """The part of a module's name that belongs to one distribution."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] in SHARED else 1])


def test_there_are_six_packages() -> None:
    assert set(sources()) == set(ARROWS)


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_a_package_imports_only_along_its_arrows(package: str) -> None:
    ours = imports_of(sources()[package]) & set(ARROWS)
    assert ours <= ARROWS[package]


@pytest.mark.parametrize("package", sorted(WITHOUT_MLX))
def test_these_packages_never_import_mlx(package: str) -> None:
    assert not imports_of(sources()[package]) & {"mlx", "mlx_lm", "transformers", "torch"}


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_a_package_declares_all_that_it_imports_and_imports_all_that_it_declares(
    package: str,
) -> None:
    project = tomllib.loads((sources()[package].parents[1] / "pyproject.toml").read_text())
    extras = project["project"].get("optional-dependencies", {}).values()
    declared = {
        re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
        for requirement in chain(project["project"]["dependencies"], *extras)
    }
    imported = {
        DISTRIBUTIONS.get(name, name.replace("_", "-"))
        for name in imports_of(sources()[package])
        if name not in sys.stdlib_module_names
    }
    assert imported == declared - NOT_IMPORTED
