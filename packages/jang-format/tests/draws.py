"""Edits drawn at random, mostly such as get past the first checks."""

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from damage import UNSOUND, Edit, Files, Pairs, Place, apply, dump, is_weights, load

from jang_format import DIGESTS_FILE, MANIFEST_FILE, STORAGE

_DTYPES: Final = ("BOOL", "U8", "I8", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32")
_WIDE_DTYPES: Final = ("I64", "U64", "F64", "F4", "F8_E8M0", "C64", "f16")
_NUMBERS: Final = (0, 1, 2, 3, 5, 7, 8, 9, 16, 32, 63, 64, 65, 96, 128, 256, 2**31, 2**32, 2**53)
_LIMITS: Final = (2**40, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**65, 10**40, 10**4299)
_TEXTS: Final = (
    *("null", "true", "false", '""', '"x"', "[]", "{}", "[[]]", "[{}]", "[0]", "[1,2]", "[-1]"),
    *("-1", "-0", "1.5", "64.0", "1e3", "1E999", "-1e999", "NaN", "Infinity", "-Infinity", "01"),
    *('"\\u0000"', '"\\ud800"', '"\\udc00x"', '"\\u001b[2J\\n"', '"\\u202e"', '"[/b]"', '"\x00"'),
    *(
        '".."',
        '"../outside/model.safetensors"',
        '"."',
        '"model/../../x.safetensors"',
        '"model\\\\x"',
    ),
    *('"model-00001-of-00002.safetensors"', '"model.safetensors"', '"model\\u0000.safetensors"'),
    *('"1.0"', '"2.0"', '"3"', '"2.x"', '"\\u0661.0"', '"affine"', '"mxfp4"', '"jang"', '"mxq"'),
    *("1" * 5000, f'"{"long" * 1000}"', "[" * 3000, "[" * 70 + "]" * 70, f"[{'1,' * 9}1]"),
    *('{"bits":4,"group_size":32}', '{"bits":1e99,"group_size":64}', '{"":{"":{"":0}}}'),
    f'{{"bits":{10**30},"group_size":{-(10**30)}}}',
)
_KEYS: Final = (
    *("__metadata__", "dtype", "shape", "data_offsets", "weight_map", "metadata", "quantization"),
    *("bits", "group_size", "mode", "format", "format_version", "", "\n\x1b]0;x\x07", "x" * 3000),
    *("algorithm", "tensors", "files", "\ud800", "num_experts", "head_dim", "hidden_size"),
)
_LEAVES: Final = (
    *("weight", "scales", "biases", "qweight", "zeros", "bit_map", "block_offsets", "shape"),
    *("bits", "bias", ""),
)
_FILE_NAMES: Final = (
    *("config.json", MANIFEST_FILE, "jjqf_config.json", "mxq_config.json", DIGESTS_FILE),
    *("model.safetensors", "model-00001-of-00001.safetensors", "model.mxq.safetensors"),
    *("model.safetensors.index.json", "model.jang.index.json", "x.jang.safetensors"),
    *("model\x1b[2J\n.safetensors", "model-" + "x" * 200 + ".safetensors", "tokenizer.json"),
)
_LINK_TARGETS: Final = (
    *("../outside/{file}", "{outside}/{file}", "..", ".", "{file}", "nothing", "config.json"),
    *("../model/config.json", "model.safetensors", "../outside"),
)


def draw_edits(generator: random.Random, files: Files) -> list[Edit]:
    """One edit, or a few."""
    count = generator.choice((1, 1, 1, 2, 2, 3, 4))
    edits: list[Edit] = []
    for _ in range(count):
        # Drawn from what the edits before leave, or most would hit a file that is no more.
        edited = apply(files, edits)
        plain = {name: content for name, content in edited.items() if isinstance(content, bytes)}
        if plain:
            draw = generator.choices(_DRAWS, weights=(2, 5, 5, 2))[0]
            with contextlib.suppress(*UNSOUND):
                edits += draw(generator, plain, generator.choice(list(plain)))
    return edits


def _draw_splice(generator: random.Random, files: Mapping[str, bytes], name: str) -> list[Edit]:
    content = files[name]
    at = generator.randrange(len(content) + 1)
    length = min(len(content) - at, generator.choice((1, 1, 2, 4, 8, 64, 1000)))
    edit: Edit = {"edit": "splice", "file": name, "at": at, "delete": length, "insert": ""}
    match generator.choice(
        ("flip", "flip", "overwrite", "insert", "delete", "cut", "copy", "head")
    ):
        case "flip":
            flipped = bytes(byte ^ 1 << generator.randrange(8) for byte in content[at : at + 1])
            edit |= {"delete": len(flipped), "insert": flipped.hex()}
        case "overwrite":
            byte = generator.choice((b"\x00", b"\xff", b"\x7f", b"\x80", generator.randbytes(1)))
            edit["insert"] = (byte * length).hex()
        case "insert":
            edit |= {"delete": 0, "insert": generator.randbytes(length).hex()}
        case "cut":
            edit["delete"] = len(content) - at
        case "copy":
            edit |= {"delete": 0, "insert": content[at : at + length].hex()}
        case "head":
            number = generator.choice((*_NUMBERS, *_LIMITS[:6], len(content) - 8))
            edit |= {"at": 0, "delete": 8, "insert": number.to_bytes(8, "little").hex()}
        case _:
            pass
    return [edit]


def _places(node: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    yield place, node
    if isinstance(node, Pairs):
        for key, value in node:
            yield from _places(value, [*place, key])
    elif isinstance(node, list):
        for position, item in enumerate(node):
            yield from _places(item, [*place, position])


def _draw_json(generator: random.Random, files: Mapping[str, bytes], name: str) -> list[Edit]:
    content = files[name]
    places = list(_places(load(name, content), []))
    place, node = generator.choice(places)
    edit: Edit = {"edit": "set", "file": name, "at": place, "text": "null"}
    kind = generator.choice(
        ("set", "set", "set", "near", "near", "near", "other", "drop", "repeat", "key")
    )
    if kind == "near":
        edit["text"] = _near(generator, place, node)
    elif kind == "other":
        edit["text"] = dump(generator.choice(places)[1])
    elif kind == "set" or not place:
        numbers = [str(number) for number in (*_NUMBERS, *_LIMITS)]
        edit["text"] = generator.choice((*_TEXTS, *_TEXTS, *numbers))
    elif kind == "key" and isinstance(place[-1], str):
        stem = place[-1].rpartition(".")[0]
        sibling = f"{stem}.{generator.choice(_LEAVES)}"
        edit |= {"edit": "key", "key": generator.choice((*_KEYS, *(sibling for _ in _KEYS)))}
    else:
        edit["edit"] = "repeat" if kind == "key" else kind
    return [edit]


def _near(generator: random.Random, place: Place, node: Any) -> str:
    """A value like the one that stands there, so that it gets past the first checks."""
    if place and place[-1] == "dtype":
        return json.dumps(generator.choice((*_DTYPES, *_WIDE_DTYPES)))
    if place and place[-1] == "shape" and isinstance(node, list):
        product = int(np.prod([size for size in node if isinstance(size, int)], dtype=object))
        factor = generator.choice([n for n in (1, 2, 3, 4, 8, 64) if product % n == 0])
        shapes = ([product], [factor, product // factor], [1, *node], [*node, 1], node[::-1], [])
        return dump(generator.choice((*shapes, [*node, 0], [0, 2**61], [2**32, 2**32])))
    if isinstance(node, int):
        others = (node + 1, node - 1, node * 2, node // 2, -node, node + 2**32, node + 2**64)
        return str(int(generator.choice((*others, *_NUMBERS))))
    if isinstance(node, str):
        return json.dumps(generator.choice((node[:-1], node + "x", node.upper(), node + ".0")))
    if isinstance(node, list):
        return dump(generator.choice((node[::-1], node + node, node[:1])))
    return generator.choice(_TEXTS)


def _draw_file(generator: random.Random, files: Mapping[str, bytes], name: str) -> list[Edit]:
    kind = generator.choice(
        ("remove", "rename", "copy", "swap", "link", "link", "fifo", "directory")
    )
    edit: Edit = {"edit": kind, "file": name}
    if kind == "swap":
        edit["to"] = generator.choice(list(files))
    elif kind in ("rename", "copy"):
        edit["to"] = generator.choice((*_FILE_NAMES, *files))
    elif kind == "link":
        edit["to"] = generator.choice(_LINK_TARGETS)
    return [edit]


def _draw_tensor(generator: random.Random, files: Mapping[str, bytes], name: str) -> list[Edit]:
    """Change one tensor, or the rows of all tensors of a module, in a file that stays sound."""
    name = generator.choice([file for file in files if is_weights(file)] or [name])
    content = files[name]
    header = {key: dict(entry) for key, entry in load(name, content) if key != "__metadata__"}
    data = content[8 + int.from_bytes(content[:8], "little") :]
    chosen = generator.choice(list(header))
    edits = [
        _tensor_edit(name, key, entry, data)
        for key, entry in header.items()
        if key.rpartition(".")[0] == chosen.rpartition(".")[0]
    ]
    kind = generator.choice(("value", "value", "shape", "dtype", "name", "remove", "add", "rows"))
    if kind == "rows":
        rows: list[int] = generator.choice(([0], [1], [2, 0], [1, 1], [], [3], [1] * 8, [2**62, 0]))
        return [edit | {"shape": rows + edit["shape"][-1:]} for edit in edits]
    edit = next(edit for edit in edits if edit["name"] == chosen)
    if kind == "value":
        edit["data"] = _other_value(generator, bytes.fromhex(edit["data"]), edit["dtype"]).hex()
    elif kind == "dtype":
        edit["dtype"] = generator.choice(_DTYPES)
    elif kind == "shape":
        edit["shape"] = json.loads(_near(generator, ["shape"], edit["shape"]))
    elif kind == "remove":
        edit["to"] = None
    else:
        stem = generator.choice(list(header)).rpartition(".")[0]
        edit["to"] = f"{stem}.{generator.choice(_LEAVES)}"
        edit["name"] = edit["name"] if kind == "name" else None
    return [edit]


def _tensor_edit(file: str, name: str, entry: Mapping[str, Any], data: bytes) -> Edit:
    """An edit that leaves the tensor as it is."""
    edit: Edit = {"edit": "tensor", "file": file, "name": name, "to": name}
    part = data[slice(*entry["data_offsets"])]
    return edit | {"dtype": entry["dtype"], "shape": entry["shape"], "data": part.hex()}


def _other_value(generator: random.Random, data: bytes, dtype: str) -> bytes:
    width = STORAGE[dtype].itemsize
    at = generator.randrange(max(len(data) // width, 1)) * width
    number = int.from_bytes(data[at : at + width], "little")
    infinity = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}.get(dtype, 7)
    near = (number + 1, number - 1, number ^ 1 << generator.randrange(8 * width), -number)
    far = (0, 1, -1, infinity, infinity + 1, infinity - 1, 1 << (8 * width - 1))
    other = generator.choice((*near, *far)) % (1 << 8 * width)
    return data[:at] + other.to_bytes(width, "little") + data[at + width :]


_DRAWS: Final = (_draw_splice, _draw_json, _draw_tensor, _draw_file)
