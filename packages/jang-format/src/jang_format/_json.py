"""JSON as this format allows it: bounded, without duplicate keys, without surprises."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn, cast

LARGEST_JSON: Final = 32 * 1024 * 1024
DEEPEST_JSON: Final = 64
# Together they bound the memory at 1.3 GB: the worst text that a test knows takes 1.18 GB, and
# without the second bound it was 2 GB. A header as long as allowed stays below it, for an entry is
# three arrays and objects in 48 bytes or more.
MOST_CONTAINERS: Final = 2**21


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object that these bytes hold.

    Raises:
        ValueError: If they hold none, or one that is too deep or has too many parts, repeats a
            key, is not UTF-8, or has NaN, an infinity, -0 or half a surrogate pair. The message
            says which.
    """
    # Before parsing, so brackets in strings count too.
    if content.count(b"[") + content.count(b"{") > MOST_CONTAINERS:
        raise ValueError(f"more than {MOST_CONTAINERS} brackets")
    try:
        parsed: Any = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            # Slower than int, and names such as model-00001 are the reason why it is ever used.
            parse_int=_without_negative_zero if b"-0" in content else None,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{type(parsed).__name__} at the top")
    _check_depth(parsed)
    if b"\\ud" in content or b"\\uD" in content:
        # Escapes of half a surrogate pair parse, and then cannot be printed or written.
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    return cast(dict[str, Any], parsed)


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object inside another; empty where there is none."""
    found = content.get(key)
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key!r} twice")
            seen.add(key)
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which JSON does not have")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("a number beyond the range of float64")
    return value


def _without_negative_zero(number: str) -> int:
    # An integer to Python and a float to the safetensors library.
    if number == "-0":
        raise ValueError("-0, which is an integer to some readers only")
    return int(number)


def _check_depth(content: Any) -> None:
    level: list[Any] = [content]
    for _ in range(DEEPEST_JSON):
        level = [
            child
            for node in level
            for child in cast(Iterable[Any], node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")
