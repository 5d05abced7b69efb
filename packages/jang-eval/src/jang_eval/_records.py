"""Frozen dataclasses to JSON values and back, with every field checked on the way back.

Knows what the results are made of: text, numbers, true and false, enums of text, tuples of one
kind, objects with values of one kind, dataclasses, and any of these or null. Fields of a dataclass
that have defaults may be missing.
"""

import dataclasses
import math
from collections.abc import Callable
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from jang_eval._text import shown_value

Record = TypeVar("Record")

_NOTHING = object()


class FieldError(Exception):
    """A field does not hold what it should; the message names the field, found and expected."""

    def __init__(self, field: str, found: object, expected: str) -> None:
        super().__init__(f"{field}: found {_shown(found)}, expected {expected}")


def to_json(record: object) -> dict[str, Any]:
    """Turns a dataclass into what `json.dumps` takes."""
    return dataclasses.asdict(cast(Any, record))


def from_json(kind: type[Record], value: object) -> Record:
    """Turns a parsed JSON document into a dataclass; fields that it does not know are passed over.

    Raises:
        FieldError: A field is missing or does not hold what the dataclass says.
    """
    return cast(Record, _decode(kind, value, ""))


def _decode(kind: Any, value: object, field: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_record(cast("type[Any]", kind), value, field)
    if get_origin(kind) is tuple:
        return _decode_tuple(get_args(kind)[0], value, field)
    if get_origin(kind) is dict:
        return _decode_dict(get_args(kind)[1], value, field)
    if get_origin(kind) is UnionType:
        return _decode_optional(kind, value, field)
    if issubclass(kind, Enum):
        return _decode_enum(kind, value, field)
    return _decode_scalar(kind, value, field)


def _decode_record(kind: type[Any], value: object, field: str) -> Any:
    if not isinstance(value, dict):
        raise FieldError(field or "document", value, "an object")
    entries = cast("dict[str, object]", value)
    types = _types(kind)
    prefix = f"{field}." if field else ""
    return kind(
        **{
            each.name: _decode(
                types[each.name], entries.get(each.name, _NOTHING), prefix + each.name
            )
            for each in dataclasses.fields(kind)
            # What has a default came later than the files that do not have it.
            if each.name in entries or not _has_default(each)
        }
    )


@cache
def _types(kind: type[Any]) -> dict[str, Any]:
    # Looking them up takes longer than checking a record, and results hold thousands of one kind.
    return get_type_hints(kind)


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _decode_tuple(kind: Any, value: object, field: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise FieldError(field, value, "a list")
    items = cast("list[object]", value)
    return tuple(_decode(kind, item, f"{field}[{index}]") for index, item in enumerate(items))


def _decode_dict(kind: Any, value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(field, value, "an object")
    entries = cast("dict[str, object]", value)
    return {name: _decode(kind, entry, f"{field}.{name}") for name, entry in entries.items()}


def _decode_optional(kind: Any, value: object, field: str) -> Any:
    (inner,) = (each for each in get_args(kind) if each is not NoneType)
    return None if value is None else _decode(inner, value, field)


def _decode_enum(kind: type[Enum], value: object, field: str) -> Enum:
    members = {member.value: member for member in kind}
    if not isinstance(value, str) or value not in members:
        raise FieldError(field, value, "one of " + ", ".join(members))
    return members[value]


def _decode_scalar(kind: Any, value: object, field: str) -> Any:
    expected, fits = _SCALARS[kind]
    if not fits(value):
        raise FieldError(field, value, expected)
    return kind(value)


def _is_text(value: object) -> bool:
    # JSON can escape half of a surrogate pair, which no terminal or file takes as text.
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    # 1e999 is valid JSON and infinite, and an integer may be too large for a float.
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1023


_SCALARS: dict[type, tuple[str, Callable[[object], bool]]] = {
    str: ("Unicode text", _is_text),
    int: ("an integer", _is_integer),
    float: ("a finite number", _is_number),
    bool: ("true or false", lambda value: isinstance(value, bool)),
}


def _shown(value: object) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return shown_value(value)
