"""The plan: bits and group size for every module, and what the result will weigh."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from jang_format import (
    BLOCK_SIZE,
    GROUP_SIZES,
    LayoutName,
    Matrices,
    TensorSpec,
    block_specs,
    count_matrices,
    mlx_specs,
    quantized_bytes,
)
from jang_quant._errors import PlanError
from jang_quant._profiles import Profile
from jang_quant._roles import parameter_role, role_of

DEFAULT_GROUP_SIZE: Final = 64
# Scales, biases and nearly all that is not quantized are stored in 16 bits.
_FLOAT_BYTES: Final = 2
_FLOAT32_BYTES: Final = 4


@dataclass(frozen=True)
class PlannedModule:
    """One module of the model whose weight is a matrix or a stack of matrices.

    Attributes:
        path: Module path.
        role: Such as "attention".
        shape: `[..., out, in]`.
        bits: Bits of a code; None leaves the module unquantized.
        group_size: Weights that share scale and bias; None where bits is.
        map_bytes: Bytes that the layout adds, whatever the bits are.
    """

    path: str
    role: str
    shape: tuple[int, ...]
    bits: int | None
    group_size: int | None
    map_bytes: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases, and of maps; or of the 16-bit values."""
        if self.bits is None or self.group_size is None:
            return self.parameters * _FLOAT_BYTES
        return quantized_bytes(self.shape, self.bits, self.group_size) + self.map_bytes


@dataclass(frozen=True)
class PlannedParameter:
    """A parameter that MLX cannot quantize: a norm, a bias, a convolution.

    Attributes:
        role: Such as "norm".
        shape: Its shape.
        float32: Whether it is stored as float32, not in 16 bits like the others.
    """

    role: str
    shape: tuple[int, ...]
    float32: bool

    @property
    def parameters(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return self.parameters * (_FLOAT32_BYTES if self.float32 else _FLOAT_BYTES)

    def dtype(self, float_dtype: str) -> str:
        """How it is stored in a model whose floats are stored as `float_dtype`."""
        return "F32" if self.float32 else float_dtype


@dataclass(frozen=True)
class Origin:
    """Where a plan comes from, as far as that is known; the model card says it.

    Attributes:
        command: The command that repeats the conversion.
        damage: Estimated divergence from the source, in nats a token.
    """

    command: str | None = None
    damage: float | None = None


@dataclass(frozen=True)
class Plan:
    """Bits and group size for every module of a model.

    Attributes:
        name: The profile it comes from.
        modules: Every module that could be quantized, in the model's order.
        others: All other parameters, by path.
        layout: What is written.
        origin: Where it comes from; what is written besides the model card does not depend on it.
    """

    name: str
    modules: tuple[PlannedModule, ...]
    others: Mapping[str, PlannedParameter]
    layout: LayoutName = "mlx"
    origin: Origin = Origin()

    @property
    def parameters(self) -> int:
        """Number of all weights of the model."""
        matrices = sum(module.parameters for module in self.modules)
        return matrices + sum(other.parameters for other in self.others.values())

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors; the files add their headers."""
        matrices = sum(module.nbytes for module in self.modules)
        return matrices + sum(other.nbytes for other in self.others.values())

    @property
    def matrices(self) -> Matrices:
        """Modules, and what else has two dimensions or more, such as convolutions."""
        parts = (*self.modules, *self.others.values())
        return count_matrices((part.shape, part.nbytes) for part in parts)

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all matrices, embeddings included, with scales and biases."""
        return self.matrices.bits_per_weight

    def tensor_specs(self, float_dtype: str) -> list[TensorSpec]:
        """The tensors of the converted model, floats stored as `float_dtype`."""
        specs: list[TensorSpec] = []
        for module in self.modules:
            specs.extend(module_specs(module, self.layout, float_dtype))
        for path, other in self.others.items():
            specs.append(TensorSpec(path, other.dtype(float_dtype), other.shape))
        return specs


def module_specs(module: PlannedModule, layout: LayoutName, float_dtype: str) -> list[TensorSpec]:
    """The tensors of a converted module, floats stored as `float_dtype`."""
    if module.bits is None or module.group_size is None:
        return [TensorSpec(f"{module.path}.weight", float_dtype, module.shape)]
    if layout == "blocks":
        return block_specs(module.path, module.shape, module.parameters * module.bits // 8)
    return mlx_specs(module.path, module.shape, module.bits, module.group_size, float_dtype)


def make_plan(
    modules: Mapping[str, tuple[int, ...]],
    others: Mapping[str, tuple[int, ...]],
    profile: Profile,
    group_size: int = DEFAULT_GROUP_SIZE,
    float32: Collection[str] = (),
    layout: LayoutName = "mlx",
) -> Plan:
    """Plan a model by a profile.

    A module whose inputs are not a multiple of `group_size` takes the largest smaller group size
    that fits, and stays unquantized where none does.

    Args:
        modules: Shape `[..., out, in]` of every module that can be quantized, by module path.
        others: Shape of every other parameter, by path.
        profile: Which bits each role gets.
        group_size: 32, 64 or 128.
        float32: Paths of the other parameters that are not rounded to 16 bits.
        layout: What is written; blocks are groups of 64.

    Raises:
        PlanError: If a module's role is not known, profiles.toml has no bits for it, or the layout
            has no such groups.
    """
    if layout == "blocks" and group_size != BLOCK_SIZE:
        raise PlanError(f"--layout blocks: found groups of {group_size}, expected {BLOCK_SIZE}")
    if group_size not in GROUP_SIZES:
        raise PlanError(f"group size: found {group_size}, expected one of {GROUP_SIZES}")
    if not modules:
        raise PlanError("model: found no module that can be quantized, expected at least one")
    roles = {path: role_of(path, modules) for path in modules}
    bits = _bits_of_roles(frozenset(roles.values()), profile)
    return Plan(
        name=profile.title,
        modules=tuple(
            _planned_module(path, shape, roles[path], bits[roles[path]], group_size, layout)
            for path, shape in modules.items()
        ),
        others={
            path: PlannedParameter(parameter_role(path), shape, float32=path in float32)
            for path, shape in others.items()
        },
        layout=layout,
    )


def _bits_of_roles(roles: Collection[str], profile: Profile) -> dict[str, int | None]:
    bits = {role: profile.bits_for(role) for role in roles}
    if "embedding" in bits and "head" not in bits:
        # The embedding is the head as well.
        bits["embedding"] = profile.bits_for("tied embedding")
    return bits


def _planned_module(
    path: str,
    shape: tuple[int, ...],
    role: str,
    bits: int | None,
    wanted: int,
    layout: LayoutName,
) -> PlannedModule:
    sizes = (BLOCK_SIZE,) if layout == "blocks" else GROUP_SIZES
    fitting = [size for size in sizes if size <= wanted and shape[-1] % size == 0]
    group_size = None if bits is None else max(fitting, default=None)
    return PlannedModule(
        path=path,
        role=role,
        shape=shape,
        bits=None if group_size is None else bits,
        group_size=group_size,
        map_bytes=_map_bytes(shape) if layout == "blocks" else 0,
    )


def _map_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of width and offset of each block, and of the shape."""
    specs = {spec.name: spec.nbytes for spec in block_specs("", shape, 0)}
    return specs[".bit_map"] + specs[".block_offsets"] + specs[".shape"]
