"""A model's share of one rank: a part of every matrix (tensor), or some of the layers (pipeline).

How is mlx-lm's business: its classes have `shard` or `pipeline`. Here is seen to it that the parts
fit, for mlx-lm divides heads without looking at the rest.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]

from jang_format import first_line
from jang_runtime._blocks.modules import BlockModule
from jang_runtime._errors import ModelError
from jang_runtime._loading import MakeModel, weights_in_place, weights_to_cut
from jang_runtime._options import Sharding
from jang_runtime.architecture import parameter_shapes

Kind: TypeAlias = Literal["tensor", "pipeline"]

_KINDS: Final[Mapping[Sharding, tuple[Kind, ...]]] = {
    "auto": ("tensor", "pipeline"),
    "tensor": ("tensor",),
    "pipeline": ("pipeline",),
}


class Group(Protocol):
    """What of `mx.distributed.Group` decides a share."""

    def rank(self) -> int:
        """This process."""
        ...

    def size(self) -> int:
        """How many processes."""
        ...


@dataclass(frozen=True)
class Share:
    """One rank's part of a model.

    Attributes:
        model: Its parameters are in memory; those of other ranks are not.
        kind: How the model was split.
    """

    model: nn.Module
    kind: Kind


class _CannotSplitError(Exception):
    """Why a model cannot be split in one way."""


def share_of(make: MakeModel, group: Group, wanted: Sharding) -> Share:
    """This rank's share of a model; every rank comes to the same kind, or to the same refusal.

    Args:
        make: Makes the whole model, its weights not read yet; a model that could not be split is
            left half-way, and another one made.
        group: The ranks.
        wanted: How to split it; "auto" prefers tensor, for all ranks work at the same time.

    Raises:
        ModelError: If it cannot be split so.
    """
    reasons: list[str] = []
    for kind in _KINDS[wanted]:
        model = make(_WEIGHTS[kind])
        try:
            _SPLIT[kind](model, group)
        except _CannotSplitError as error:
            reasons.append(f"{kind}: {error}")
        else:
            _evaluate(model)
            return Share(model, kind)
    raise ModelError(f"the model cannot be split over {group.size()} ranks; {'; '.join(reasons)}")


def _split_tensors(model: nn.Module, group: Group) -> None:
    shard = getattr(model, "shard", None)
    if shard is None:
        raise _CannotSplitError(f"mlx-lm's {_module_of(model)} has no shard()")
    modules = _modules(model)
    blocks = next((path for path, each in modules.items() if isinstance(each, BlockModule)), None)
    if blocks is not None:
        raise _CannotSplitError(
            f"{blocks}: found blocks of several widths, expected one width in each tensor "
            "(jang-format convert DIR OUT --layout mlx)"
        )
    whole = _numbers(modules)
    shapes = parameter_shapes(model)
    try:
        shard(group)
    except (ValueError, AssertionError) as error:
        raise _CannotSplitError(_fault(error, modules, group.size())) from error
    _check_numbers(whole, _numbers(_modules(model)), group.size())
    _drop_wholes(model, shapes)


def _split_layers(model: nn.Module, group: Group) -> None:
    inner = getattr(model, "model", None)
    pipeline = getattr(inner, "pipeline", None)
    if pipeline is None:
        raise _CannotSplitError(f"mlx-lm's {_module_of(model)} has no model.pipeline()")
    layers = len(cast(Any, inner).layers)
    if layers < group.size():
        raise _CannotSplitError(f"found {layers} layers, expected one for each rank")
    pipeline(group)


_SPLIT: Final[Mapping[Kind, Callable[[nn.Module, Group], None]]] = {
    "tensor": _split_tensors,
    "pipeline": _split_layers,
}


def _evaluate(model: nn.Module) -> None:
    """Read and cut one module after the other: a whole matrix is in memory only meanwhile."""
    for module in cast(list[nn.Module], model.modules()):
        own = cast(dict[str, Any], module).values()
        mx.eval([value for value in own if isinstance(value, mx.array)])  # pyright: ignore[reportUnknownMemberType]


_WEIGHTS: Final = {"tensor": weights_to_cut, "pipeline": weights_in_place}


def _module_of(model: nn.Module) -> str:
    return type(model).__module__.rpartition(".")[2]


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(cast(list[tuple[str, nn.Module]], model.named_modules()))


def _numbers(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Every whole number that a module keeps, counts of heads among them."""
    return {
        f"{path}.{name}": value
        for path, module in modules.items()
        for name, value in vars(module).items()
        if type(value) is int
    }


def _check_numbers(whole: Mapping[str, int], parts: Mapping[str, int], ranks: int) -> None:
    """What `shard` divided, counts of heads above all, has to come out even."""
    for name, part in sorted(parts.items()):
        before = whole.get(name, part)
        # A head of keys and values may serve several ranks, each with a copy of it.
        is_copied = part == 1 and before > 0 and ranks % before == 0
        if part != before and part * ranks != before and not is_copied:
            raise _CannotSplitError(f"{name}: found {before}, expected a multiple of {ranks}")


def _fault(error: Exception, modules: Mapping[str, nn.Module], ranks: int) -> str:
    """Which module mlx-lm was splitting when it failed, and what of it does not come out even."""
    paths = {id(module): path for path, module in modules.items()}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, nn.Module) and paths.get(id(value)):
                return f"{paths[id(value)]}: found {_sizes(value)}, expected multiples of {ranks}"
    return first_line(error)


def _sizes(module: nn.Module) -> str:
    own: Any = module
    rows = f"{own.weight.shape[-2]} rows"
    if "scales" not in own:
        return f"{rows} of {own.weight.shape[-1]}"
    return f"{rows} of {own.scales.shape[-1]} groups of {own.group_size}"


def _drop_wholes(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Copy parts out of their wholes where mlx-lm took views, which would keep the whole."""
    parts = [
        (path, mx.contiguous(parameter))
        for path, parameter in cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
        if shapes.get(path) != tuple(parameter.shape)
    ]
    model.load_weights(parts, strict=False)
