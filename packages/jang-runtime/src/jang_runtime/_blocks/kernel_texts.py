"""The texts of the GPU kernels: one body for each, and what a backend and a use put before it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import mlx.core as mx

GpuBackend = Literal["metal", "cuda"]
KernelName = Literal["rows", "vector", "gather_vector", "matrix", "gather_matrix"]
Constants = tuple[tuple[str, int], ...]

OUTPUT: Final = "y"
_FOLDER: Final = Path(__file__).parent / "kernels"
_MATRICES: Final = ("qweight", "scales", "zeros", "bit_map", "block_offsets")
_GATHER: Final = ("x", "indices", "matrix_offsets", *_MATRICES)
#: Names of the inputs of each kernel, in their order.
INPUTS: Final[dict[KernelName, tuple[str, ...]]] = {
    "rows": ("rows", "columns", "matrix_offsets", *_MATRICES),
    "vector": ("x", *_MATRICES),
    "gather_vector": _GATHER,
    "matrix": ("x", *_MATRICES),
    "gather_matrix": _GATHER,
}
_HEADERS: Final[dict[KernelName, tuple[str, ...]]] = {
    "rows": ("{backend}.header", "common.header"),
    "vector": ("{backend}.header", "common.header"),
    "gather_vector": ("{backend}.header", "common.header"),
    "matrix": ("{backend}.header", "common.header", "{backend}.tiles"),
    "gather_matrix": ("{backend}.header", "common.header", "{backend}.tiles"),
}
_BODIES: Final[dict[KernelName, tuple[str, ...]]] = {
    "rows": ("{backend}.start", "rows.body"),
    "vector": ("{backend}.start", "plain.start", "vector.body"),
    "gather_vector": ("{backend}.start", "gather.start", "vector.body"),
    "matrix": ("{backend}.start", "plain.start", "matrix.body"),
    "gather_matrix": ("{backend}.start", "gather.start", "matrix.body"),
}
#: What each backend calls the types of vectors.
TYPES: Final[dict[GpuBackend, dict[mx.Dtype, str]]] = {
    "metal": {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat16_t"},
    "cuda": {mx.float32: "float", mx.float16: "__half", mx.bfloat16: "__nv_bfloat16"},
}


@dataclass(frozen=True)
class KernelText:
    """What MLX makes a kernel of; the signature is MLX's.

    Attributes:
        name: Name of the kernel, another one for every other text.
        inputs: Names of its inputs.
        header: What stands before the function.
        body: The function's body.
    """

    name: str
    inputs: tuple[str, ...]
    header: str
    body: str


@cache
def kernel_text(
    name: KernelName, backend: GpuBackend, dtype: mx.Dtype, constants: Constants
) -> KernelText:
    """The text of a kernel for a backend.

    Types and constants are written into it: MLX would look at template arguments at every call.

    Raises:
        KeyError: If the type is none that vectors have.
    """
    type_name = TYPES[backend][dtype]
    values = "".join(f"constexpr int {key} = {value};\n" for key, value in constants)
    parts = ["block", name, type_name, *(f"{value}" for _, value in constants)]
    return KernelText(
        name="_".join(parts),
        inputs=INPUTS[name],
        header=_joined(_HEADERS[name], backend),
        body=f"using T = {type_name};\n{values}{_joined(_BODIES[name], backend)}",
    )


def _joined(files: tuple[str, ...], backend: GpuBackend) -> str:
    """The files, without comments and indentation: MLX copies the text at every call."""
    texts = [(_FOLDER / file.format(backend=backend)).read_text("utf-8") for file in files]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))
