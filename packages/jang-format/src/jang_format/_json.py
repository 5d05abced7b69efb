"""JSON as this format allows it: bounded, without duplicate keys, without surprises."""

import json
from collections.abc import Iterable
from typing import Any, Final, NoReturn, cast

# Parsed, the worst text takes 40 times its bytes; so this bounds the memory at 1.3 GB.
LARGEST_JSON: Final = 32 * 1024 * 1024
DEEPEST_JSON: Final = 64


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object that these bytes hold.

    Raises:
        ValueError: If they hold none, or one that is too deep, repeats a key, is not UTF-8, or has
            NaN, an infinity or half a surrogate pair. The message says which.
    """
    text = content.decode("utf-8")
    try:
        parsed: Any = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{type(parsed).__name__} at the top")
    _check_depth(parsed)
    if "\\ud" in text.lower():
        # Escapes of half a surrogate pair parse, and then cannot be printed or written.
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    return cast(dict[str, Any], parsed)


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
