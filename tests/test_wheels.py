"""Each package builds a wheel that installs and works alone, in an empty environment."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("jang", "jang_eval", "jang_format", "jang_proto", "jang_quant", "jang_runtime")

CLIENT = """
import sys
import grpc
from jang_proto.runtime.v1 import runtime_pb2 as pb, runtime_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
    request = pb.GenerateStreamRequest(
        prompt=pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
        stopping=pb.Stopping(max_tokens=5),
    )
    for event in stub.GenerateStream(request):
        print(event.WhichOneof("event"), event.finished.usage.completion_tokens)
assert not {"mlx", "jang_runtime", "numpy"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each package, by import name."""
    out = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        ["uv", "build", "--all-packages", "--wheel", "--out-dir", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def empty_environment(directory: Path, *packages: str | Path) -> Path:
    """The Python of a new environment with these packages and what they declare."""
    python = directory / "bin" / "python"
    subprocess.run(
        ["uv", "venv", "--no-project", "--python", sys.executable, str(directory)],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["uv", "pip", "install", "--python", str(python), *map(str, packages)],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    return python


def installed(python: Path) -> set[str]:
    listed = subprocess.run(
        ["uv", "pip", "list", "--python", str(python), "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {package["name"] for package in json.loads(listed.stdout)}


def test_every_package_builds_a_wheel_with_its_types(wheels: dict[str, Path]) -> None:
    assert set(wheels) == set(PACKAGES)
    for package, wheel in wheels.items():
        names = zipfile.ZipFile(wheel).namelist()
        assert f"{package}/py.typed" in names
        assert not [name for name in names if "/tests/" in name]
    data = {
        "jang_proto": "jang_proto/definitions/jang/runtime/v1/runtime.proto",
        "jang_quant": "jang_quant/profiles.toml",
        "jang_format": "jang_format/sizes.toml",
    }
    for package, name in data.items():
        assert name in zipfile.ZipFile(wheels[package]).namelist()


def test_jang_format_alone_brings_numpy_and_the_command_line_library(
    wheels: dict[str, Path], tmp_path: Path, tiny_model: Path
) -> None:
    python = empty_environment(tmp_path / "env", wheels["jang_format"])
    two = empty_environment(tmp_path / "two", "numpy", "typer")
    assert installed(python) == {"jang-format"} | installed(two)
    inspected = subprocess.run(
        [str(python.parent / "jang-format"), "inspect", str(tiny_model), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(inspected.stdout)["profile"] == "JANG_4M"


def test_a_client_needs_nothing_but_jang_proto_and_grpcio(
    wheels: dict[str, Path], tmp_path: Path, served: str
) -> None:
    python = empty_environment(tmp_path / "env", wheels["jang_proto"])
    assert installed(python) == {"grpcio", "jang-proto", "protobuf", "typing-extensions"}
    ran = subprocess.run(
        [str(python), "-c", CLIENT, served], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == "started 0"
    assert lines[-1] == "finished 5"


def kernels_in(wheel: Path) -> list[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return [name for name in names if name.startswith("jang_cpu.")]


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("c++") is None, reason="there is no C++ compiler"
)
def test_the_runtime_compiles_its_kernels_where_there_is_a_compiler(
    wheels: dict[str, Path],
) -> None:
    assert len(kernels_in(wheels["jang_runtime"])) == 1
    assert "none-any" not in wheels["jang_runtime"].name


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"], ids=["missing", "broken"])
def test_the_runtime_is_built_without_kernels_where_compiling_fails(
    tmp_path: Path, compiler: str
) -> None:
    subprocess.run(
        ["uv", "build", "--package", "jang-runtime", "--wheel", "--out-dir", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env=os.environ | {"CXX": compiler},
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert kernels_in(wheel) == []
    assert wheel.name.endswith("-py3-none-any.whl")
