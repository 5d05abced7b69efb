"""What a directory holds, in numbers."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from jang_format._reader import ModelDirectory
from jang_format._safetensors import StoredTensor


@dataclass(frozen=True)
class SummaryRow:
    """The modules of one role that are stored alike.

    Attributes:
        role: From the manifest; "-" where it does not say.
        bits: Bits of a code; None for tensors that are not quantized.
        group_size: Weights that share scale and bias; None for tensors that are not quantized.
        modules: How many.
        parameters: Weights in them.
        nbytes: Bytes on disk, scales and biases included.
    """

    role: str
    bits: int | None
    group_size: int | None
    modules: int
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Summary:
    """A directory in numbers.

    Attributes:
        architecture: `model_type` of config.json.
        profile: Profile or budget, from the manifest.
        parameters: Weights of the model.
        weight_bytes: Size of the weight files.
        bits_per_weight: Over all matrices, embeddings included, with scales and biases.
        rows: By role, bits and group size.
    """

    architecture: str
    profile: str
    parameters: int
    weight_bytes: int
    bits_per_weight: float
    rows: tuple[SummaryRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarize(directory: ModelDirectory) -> Summary:
    """Count parameters, bytes and bits per weight of a directory; reads headers only.

    Raises:
        InvalidFileError: If tensors and config.json do not fit together.
    """
    stored_roles = directory.manifest.get("roles")
    roles = cast(dict[str, str], stored_roles) if isinstance(stored_roles, dict) else {}
    counted: set[str] = set()
    cells: dict[tuple[str, int | None, int | None], list[tuple[int, int]]] = defaultdict(list)
    for path in directory.quantized_paths():
        tensor = directory.quantized(path)
        key = (roles.get(path, "-"), tensor.bits, tensor.group_size)
        cells[key].append((math.prod(tensor.shape), tensor.nbytes))
        counted.update(f"{path}.{part}" for part in ("weight", "scales", "biases"))
    rest = {name: stored for name, stored in directory.tensors.items() if name not in counted}
    for stored in rest.values():
        cells[("unquantized", None, None)].append((_values(stored), stored.spec.nbytes))
    rows = tuple(
        SummaryRow(*key, len(items), sum(n for n, _ in items), sum(b for _, b in items))
        for key, items in sorted(cells.items(), key=lambda cell: (cell[0][1] is None, cell[0][0]))
    )
    return Summary(
        architecture=str(directory.config.get("model_type", "-")),
        profile=_profile(directory.manifest),
        parameters=sum(row.parameters for row in rows),
        weight_bytes=directory.weight_bytes,
        bits_per_weight=_bits_per_weight(rows, rest),
        rows=rows,
    )


def _values(stored: StoredTensor) -> int:
    return math.prod(stored.spec.shape)


def _bits_per_weight(rows: tuple[SummaryRow, ...], rest: Mapping[str, StoredTensor]) -> float:
    matrices = [stored for stored in rest.values() if len(stored.spec.shape) >= 2]
    quantized = [row for row in rows if row.bits is not None]
    parameters = sum(row.parameters for row in quantized) + sum(map(_values, matrices))
    nbytes = sum(row.nbytes for row in quantized) + sum(stored.spec.nbytes for stored in matrices)
    return 8 * nbytes / parameters if parameters else 0.0


def _profile(manifest: Mapping[str, Any]) -> str:
    quantization = manifest.get("quantization")
    if isinstance(quantization, dict):
        return str(cast(dict[str, Any], quantization).get("profile", "-"))
    return "-"
