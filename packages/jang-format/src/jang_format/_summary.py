"""What a directory holds, in numbers: by module, by role, and in all."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from jang_format._digests import digest_of, directory_digest
from jang_format._json import section
from jang_format._matrices import count_matrices
from jang_format._reader import ModelDirectory

EMBEDDING_ROLES: Final = ("embedding", "head")
_UNQUANTIZED: Final = "unquantized"
_UNKNOWN: Final = "-"
# Names of embeddings and heads, for directories that state no roles.
_EMBEDDINGS: Final = ("embed_tokens", "wte", "word_embeddings", "embeddings", "tok_embeddings")
_HEADS: Final = ("lm_head", "output", "embed_out")


@dataclass(frozen=True)
class SummaryModule:
    """One quantized module, or one tensor that is not quantized.

    Attributes:
        path: Module path, or the tensor's name.
        role: From the manifest; for embeddings and heads from their names where it does not say.
        bits: Mean width of the codes; None for what is not quantized.
        widths: The widths that occur; one but in block layout.
        group_size: Weights that share scale and bias; None for what is not quantized.
        shape: Shape of the values.
        nbytes: Bytes of its tensors on disk.
    """

    path: str
    role: str
    bits: float | None
    widths: tuple[int, ...]
    group_size: int | None
    shape: tuple[int, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SummaryRow:
    """The modules of one role that are stored alike.

    Attributes:
        role: As in `SummaryModule`.
        bits: Width of the codes; None where they are not quantized, or of several widths.
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
        layout: "mlx" or "blocks".
        architecture: `model_type` of config.json.
        profile: Profile or budget, from the manifest.
        digest: SHA-256 over the digests of all parts; None where there are none.
        plan_digest: SHA-256 over path, shape, widths and group size of all modules: the same for
            whatever stores the same modules in the same way, and there without a manifest.
        parameters: Weights of the model.
        weight_bytes: Size of the weight files.
        bits_per_weight: Over all matrices, embeddings included, with scales and biases.
        bits_per_weight_without_embeddings: The same without embeddings and head.
        bytes_by_role: Bytes of tensors on disk.
        rows: By role, bits and group size.
        modules: Each module.
    """

    layout: str
    architecture: str
    profile: str
    digest: str | None
    plan_digest: str
    parameters: int
    weight_bytes: int
    bits_per_weight: float
    bits_per_weight_without_embeddings: float
    bytes_by_role: Mapping[str, int]
    rows: tuple[SummaryRow, ...]
    modules: tuple[SummaryModule, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarize(directory: ModelDirectory) -> Summary:
    """Count parameters, bytes and bits per weight of a directory.

    Reads headers, and in block layout the maps of the widths.

    Raises:
        InvalidFileError: If tensors and config.json do not fit together.
    """
    return summary_of(
        (*_quantized_modules(directory), *_other_modules(directory)),
        layout=directory.layout.name,
        architecture=str(directory.config.get("model_type", _UNKNOWN)),
        profile=str(section(directory.manifest, "quantization").get("profile", _UNKNOWN)),
        weight_bytes=directory.weight_bytes,
        digest=directory_digest(directory.path),
    )


def summary_of(
    modules: tuple[SummaryModule, ...],
    *,
    layout: str,
    architecture: str,
    profile: str,
    weight_bytes: int,
    digest: str | None = None,
) -> Summary:
    """Count parameters, bytes and bits per weight of modules, whether they are written or planned.

    Args:
        modules: Every module and every tensor that is not quantized.
        layout: "mlx" or "blocks".
        architecture: `model_type` of config.json.
        profile: Profile or budget.
        weight_bytes: Size of the weight files.
        digest: That of the directory; None where there is none.
    """
    inner = [module for module in modules if module.role not in EMBEDDING_ROLES]
    bytes_by_role: dict[str, int] = defaultdict(int)
    for module in modules:
        bytes_by_role[module.role] += module.nbytes
    return Summary(
        layout=layout,
        architecture=architecture,
        profile=profile,
        digest=digest,
        plan_digest=_plan_digest(modules),
        parameters=sum(module.parameters for module in modules),
        weight_bytes=weight_bytes,
        bits_per_weight=_bits_per_weight(modules),
        bits_per_weight_without_embeddings=_bits_per_weight(inner),
        bytes_by_role=dict(sorted(bytes_by_role.items(), key=lambda item: -item[1])),
        rows=_rows(modules),
        modules=modules,
    )


def _quantized_modules(directory: ModelDirectory) -> Iterable[SummaryModule]:
    roles = section(directory.manifest, "roles")
    parts = defaultdict[str, int](int)
    for name in directory.quantized_names():
        parts[name.rpartition(".")[0]] += directory.tensors[name].spec.nbytes
    for path in directory.quantized_paths():
        tensor = directory.quantized(path)
        widths = [tensor.bits] if tensor.bits else np.unique(tensor.bit_map).tolist()
        yield SummaryModule(
            path=path,
            role=str(roles.get(path, _role_by_name(path))),
            bits=float(tensor.bits or tensor.bit_map.mean()),
            widths=tuple(int(width) for width in widths),
            group_size=tensor.group_size,
            shape=tensor.shape,
            nbytes=parts[path],
        )


def _other_modules(directory: ModelDirectory) -> Iterable[SummaryModule]:
    counted = directory.quantized_names()
    for name, stored in directory.tensors.items():
        if name in counted:
            continue
        role = _role_by_name(name.removesuffix(".weight"))
        yield SummaryModule(
            path=name,
            role=role if role in EMBEDDING_ROLES else _UNQUANTIZED,
            bits=None,
            widths=(),
            group_size=None,
            shape=stored.spec.shape,
            nbytes=stored.spec.nbytes,
        )


def _role_by_name(path: str) -> str:
    leaf = path.rpartition(".")[2]
    if leaf in _EMBEDDINGS:
        return "embedding"
    return "head" if leaf in _HEADS else _UNKNOWN


def _plan_digest(modules: Iterable[SummaryModule]) -> str:
    plan = sorted(
        (each.path, each.shape, each.bits, each.widths, each.group_size) for each in modules
    )
    return digest_of(json.dumps(plan).encode())


def _rows(modules: Iterable[SummaryModule]) -> tuple[SummaryRow, ...]:
    cells: dict[tuple[str, int | None, int | None], list[SummaryModule]] = defaultdict(list)
    for module in modules:
        bits = module.widths[0] if len(module.widths) == 1 else None
        cells[module.role, bits, module.group_size].append(module)
    ordered = sorted(cells.items(), key=_row_order)
    return tuple(
        SummaryRow(
            *key,
            modules=len(cell),
            parameters=sum(module.parameters for module in cell),
            nbytes=sum(module.nbytes for module in cell),
        )
        for key, cell in ordered
    )


def _bits_per_weight(modules: Iterable[SummaryModule]) -> float:
    return count_matrices((module.shape, module.nbytes) for module in modules).bits_per_weight


def _row_order(
    cell: tuple[tuple[str, int | None, int | None], list[SummaryModule]],
) -> tuple[bool, str, int, int]:
    """Quantized rows first, by role and width."""
    role, bits, group_size = cell[0]
    return group_size is None, role, bits or 0, group_size or 0
