"""The plan: bits and group size for every module, and what the result will weigh."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jang_format import GROUP_SIZES, TensorSpec, mlx_specs, quantized_bytes
from jang_quant._errors import PlanError
from jang_quant._profiles import Profile
from jang_quant._roles import role_of

DEFAULT_GROUP_SIZE: Final = 64
# Scales, biases and whatever is not quantized are stored in 16 bits.
_FLOAT_BYTES: Final = 2


@dataclass(frozen=True)
class PlannedModule:
    """One module of the model whose weight is a matrix or a stack of matrices.

    Attributes:
        path: Module path.
        role: Such as "attention".
        shape: `[..., out, in]`.
        bits: Bits of a code; None leaves the module unquantized.
        group_size: Weights that share scale and bias; None where bits is.
    """

    path: str
    role: str
    shape: tuple[int, ...]
    bits: int | None
    group_size: int | None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases; or of the 16-bit values."""
        if self.bits is None or self.group_size is None:
            return self.parameters * _FLOAT_BYTES
        return quantized_bytes(self.shape, self.bits, self.group_size)


@dataclass(frozen=True)
class Plan:
    """Bits and group size for every module of a model.

    Attributes:
        name: The profile it comes from.
        modules: Every module that could be quantized, in the model's order.
        others: Shapes of all other parameters (norms, biases), by path; stored in 16 bits.
    """

    name: str
    modules: tuple[PlannedModule, ...]
    others: Mapping[str, tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """Number of all weights of the model."""
        matrices = sum(module.parameters for module in self.modules)
        return matrices + sum(math.prod(shape) for shape in self.others.values())

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors; the files add their headers."""
        matrices = sum(module.nbytes for module in self.modules)
        return matrices + sum(math.prod(shape) * _FLOAT_BYTES for shape in self.others.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all modules, embeddings included, with scales and biases."""
        parameters = sum(module.parameters for module in self.modules)
        return 8 * sum(module.nbytes for module in self.modules) / parameters

    def tensor_specs(self, float_dtype: str) -> list[TensorSpec]:
        """The tensors of the converted model, floats stored as `float_dtype`."""
        specs: list[TensorSpec] = []
        for module in self.modules:
            specs.extend(_module_specs(module, float_dtype))
        for path, shape in self.others.items():
            specs.append(TensorSpec(name=path, dtype=float_dtype, shape=shape))
        return specs


def _module_specs(module: PlannedModule, float_dtype: str) -> list[TensorSpec]:
    if module.bits is None or module.group_size is None:
        return [TensorSpec(f"{module.path}.weight", float_dtype, module.shape)]
    return mlx_specs(module.path, module.shape, module.bits, module.group_size, float_dtype)


def make_plan(
    modules: Mapping[str, tuple[int, ...]],
    others: Mapping[str, tuple[int, ...]],
    profile: Profile,
    group_size: int = DEFAULT_GROUP_SIZE,
) -> Plan:
    """Plan a model by a profile.

    A module whose inputs are not a multiple of `group_size` takes the largest smaller group size
    that fits, and stays unquantized where none does.

    Args:
        modules: Shape `[..., out, in]` of every module that can be quantized, by module path.
        others: Shape of every other parameter, by path.
        profile: Which bits each role gets.
        group_size: 32, 64 or 128.

    Raises:
        PlanError: If a module's role is not known, or the profile has no bits for it.
    """
    if group_size not in GROUP_SIZES:
        raise PlanError(f"group size: found {group_size}, expected one of {GROUP_SIZES}")
    if not modules:
        raise PlanError("model: found no module that can be quantized, expected at least one")
    roles = {path: role_of(path) for path in modules}
    bits = dict(profile.bits)
    if "head" not in roles.values():
        # The embedding is the head as well.
        bits["embedding"] = max(bits["embedding"], bits["head"])
    planned: list[PlannedModule] = []
    for path, shape in modules.items():
        if roles[path] not in bits:
            raise PlanError(
                f"{path}: profile {profile.name} has no bits for the role {roles[path]!r}"
            )
        fitting = _fitting_group_size(shape[-1], group_size)
        planned.append(
            PlannedModule(
                path=path,
                role=roles[path],
                shape=shape,
                bits=None if fitting is None else bits[roles[path]],
                group_size=fitting,
            )
        )
    return Plan(name=profile.name, modules=tuple(planned), others=dict(others))


def _fitting_group_size(columns: int, wanted: int) -> int | None:
    fitting = (size for size in GROUP_SIZES if size <= wanted and columns % size == 0)
    return max(fitting, default=None)
