"""The texts of the GPU kernels: one body for each kernel, one header and start for each backend."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

GpuBackend = Literal["metal", "cuda"]
KernelName = Literal["rows", "vector", "matrix"]

_FOLDER: Final = Path(__file__).parent / "kernels"
_MATRICES: Final = (
    *("qweight", "scales", "zeros", "bit_map", "block_offsets", "matrix_offsets", "sizes"),
)
INPUTS: Final[dict[KernelName, tuple[str, ...]]] = {
    "rows": ("rows", *_MATRICES),
    "vector": ("x", "indices", *_MATRICES),
    "matrix": ("x", "indices", *_MATRICES),
}
OUTPUT: Final = "y"


@dataclass(frozen=True)
class KernelText:
    """What MLX makes a kernel of; the signature is MLX's.

    Attributes:
        name: Name of the kernel.
        inputs: Names of its inputs.
        output: Name of its output.
        header: What stands before the function.
        body: The function's body.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    header: str
    body: str


@cache
def kernel_text(name: KernelName, backend: GpuBackend) -> KernelText:
    """The text of a kernel for a backend."""
    return KernelText(
        name=f"block_{name}",
        inputs=INPUTS[name],
        output=OUTPUT,
        header=_read(f"{backend}.header") + _read("common.header"),
        body=_read(f"{backend}.start") + _read(f"{name}.body"),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
