"""Forms of tensors that mlx-lm's `sanitize` does not take; the table is tensor_forms.toml."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import mlx.core as mx

_TABLE: Final = "tensor_forms.toml"
_EXPERT: Final = "expert"

Arrays = dict[str, mx.array]


@dataclass(frozen=True)
class _Form:
    """One entry of the table, whose head says what the fields are."""

    model_types: frozenset[str]
    pattern: re.Pattern[str]
    to: tuple[str, ...]
    change: Callable[["_Found", tuple[str, ...]], Arrays]


# What a pattern matched: the match and the array, in the order of the experts.
_Found = list[tuple[re.Match[str], mx.array]]


def known_forms(arrays: Arrays, model_type: str) -> Arrays:
    """The tensors of a checkpoint in forms that the model's class takes; arrays stay lazy."""
    result = dict(arrays)
    for form in _forms():
        if model_type not in form.model_types:
            continue
        targets: dict[str, _Found] = defaultdict(list)
        for name in arrays:
            match = form.pattern.fullmatch(name)
            if match is not None:
                targets[match.expand(form.to[0])].append((match, result.pop(name)))
        for found in targets.values():
            found.sort(key=_expert)
            result |= form.change(found, form.to)
    return result


def _expert(found: tuple[re.Match[str], mx.array]) -> int:
    return int(found[0].groupdict().get(_EXPERT, 0))


@cache
def _forms() -> tuple[_Form, ...]:
    text = resources.files(__package__ or "").joinpath(_TABLE).read_text(encoding="utf-8")
    return tuple(_form(entry) for entry in tomllib.loads(text)["form"])


def _form(entry: Mapping[str, Any]) -> _Form:
    return _Form(
        model_types=frozenset(entry["model_types"]),
        pattern=re.compile(entry["pattern"]),
        to=tuple(entry["to"]),
        change=_CHANGES[entry["form"]],
    )


def _split_experts(found: _Found, to: tuple[str, ...]) -> Arrays:
    ((match, array),) = found
    names = [match.expand(name) for name in to]
    rows = array.shape[1] // len(names)
    return {
        name.replace(f"{{{_EXPERT}}}", str(expert)): array[expert, part * rows : (part + 1) * rows]
        for expert in range(array.shape[0])
        for part, name in enumerate(names)
    }


def _stack_experts(found: _Found, to: tuple[str, ...]) -> Arrays:
    match, _ = found[0]
    return {match.expand(to[0]): mx.stack([array for _, array in found])}


def _transpose(found: _Found, to: tuple[str, ...]) -> Arrays:
    ((match, array),) = found
    return _alternate([(match, array.swapaxes(-1, -2))], to)


def _alternate(found: _Found, to: tuple[str, ...]) -> Arrays:
    ((match, array),) = found
    return {match.expand(name): array[:, part :: len(to)] for part, name in enumerate(to)}


_CHANGES: Final[Mapping[str, Callable[[_Found, tuple[str, ...]], Arrays]]] = {
    "split experts": _split_experts,
    "stack experts": _stack_experts,
    "transpose": _transpose,
    "alternate": _alternate,
}
