"""Generate the Python stubs of jang-proto: `uv run python proto/generate.py`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).parent
DEFINITION = "jang/runtime/v1/runtime.proto"
PACKAGE = "jang_proto/runtime/v1"


def generate(out: Path) -> None:
    """Write the four stub files for `DEFINITION` into the directory `out`.

    Raises:
        RuntimeError: If protoc refuses the definition.
    """
    out.mkdir(parents=True, exist_ok=True)
    well_known_types = Path(grpc_tools.__file__).parent / "_proto"
    with TemporaryDirectory(prefix=".protoc", dir=out) as work:
        _generate(Path(work), out, well_known_types)


def _generate(work: Path, out: Path, well_known_types: Path) -> None:
    status = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{well_known_types}",
            f"--python_out={work}",
            f"--grpc_python_out={work}",
            f"--mypy_out={work}",
            f"--mypy_grpc_out={work}",
            DEFINITION,
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status} on {DEFINITION}")
    for generated in sorted((work / DEFINITION).parent.iterdir()):
        # protoc imports by the path of the .proto, which for Python would be inside the package
        # `jang`; the descriptor keeps the path, so that every language sees the same file name.
        text = generated.read_text()
        text = text.replace("from jang.runtime.v1 import", "from jang_proto.runtime.v1 import")
        text = text.replace("import jang.runtime.v1.", "import jang_proto.runtime.v1.")
        text = text.replace(" jang.runtime.v1.runtime_pb2.", " jang_proto.runtime.v1.runtime_pb2.")
        (out / generated.name).write_text(text)


if __name__ == "__main__":
    generate(HERE / "src" / PACKAGE)
    sys.stdout.write(f"wrote {HERE / 'src' / PACKAGE}\n")
