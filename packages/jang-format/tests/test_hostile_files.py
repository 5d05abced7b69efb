"""Hostile files, one fault each: a named refusal in one line, whatever the fault.

Random faults are for fuzz.py; these are the ones that people think of. Out of scope is a file that
changes while it is mapped: the kernel then ends the process, and no reader can help it.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jang_format import (
    DIGESTS_FILE,
    MANIFEST_FILE,
    DirectoryError,
    InvalidFileError,
    JangFormatError,
    MissingFileError,
    UnsupportedVersionError,
    dequantize,
    read_directory,
    read_header,
    read_json,
    summarize,
    validate,
)
from jang_format._digests import read_digests
from jang_format._errors import raise_first
from jang_format._json import LARGEST_JSON, MOST_CONTAINERS


def load_damage() -> ModuleType:
    """Tests are no package; what they share with fuzz.py is loaded by its place."""
    spec = importlib.util.spec_from_file_location("damage", Path(__file__).with_name("damage.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["damage"] = module
    spec.loader.exec_module(module)
    return module


damage = load_damage()
Edit = dict[str, object]

Q_PROJ = "model.layers.0.self_attn.q_proj"
SHARD = {
    "mlx": "model-00001-of-00003.safetensors",
    "blocks": "model-00001-of-00001.jang.safetensors",
    "old mlx": "model.safetensors",
    "old blocks": "model-00001-of-00001.jjqf.safetensors",
}
INDEX = {"mlx": "model.safetensors.index.json", "blocks": "model.jang.index.json"}
BOTH = ("mlx", "blocks")


@dataclass(frozen=True)
class Case:
    """A sound directory, what is done to it, and the answer."""

    base: str
    edits: Sequence[Edit]
    message: str
    error: type[DirectoryError] = InvalidFileError


def whole(file: str, content: bytes) -> list[Edit]:
    return [{"edit": "splice", "file": file, "at": 0, "delete": 1 << 40, "insert": content.hex()}]


def value(file: str, *at: str | int, to: str) -> list[Edit]:
    """Another value at a place in a document, in JSON."""
    return [{"edit": "set", "file": file, "at": list(at), "text": to}]


def tensor(file: str, name: str, dtype: str, shape: Sequence[int], data: bytes) -> list[Edit]:
    """A tensor of other content, in a file that is sound around it; `data` is repeated."""
    edit = {"edit": "tensor", "file": file, "name": name, "to": name, "dtype": dtype}
    return [edit | {"shape": list(shape), "data": data.hex()}]


def without(file: str, name: str) -> list[Edit]:
    return [{"edit": "tensor", "file": file, "name": name, "to": None}]


def documents(base: str) -> dict[str, str]:
    """Every document of a directory: its file, and where its faults are said to be."""
    files = ("config.json", MANIFEST_FILE, DIGESTS_FILE, INDEX[base])
    return {**dict.fromkeys(files, "content"), SHARD[base]: "header"}


# What no document may be.
TEXTS: Mapping[str, tuple[bytes, str]] = {
    "nothing": (b"", r"Expecting value"),
    "white space": (b" \n", r"Expecting value"),
    "an array": (b"[{}]", r"list at the top"),
    "null": (b"null", r"NoneType at the top"),
    "half an object": (b'{"a": 1', r"Expecting ',' delimiter"),
    "two objects": (b"{}{}", r"Extra data"),
    "a byte order mark": (b"\xef\xbb\xbf{}", r"BOM"),
    "UTF-16": ("{}".encode("utf-16"), r"can't decode byte 0xff"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), r"Expecting property name"),
    "Latin-1": (b'{"a": "\xe4"}', r"can't decode byte 0xe4"),
    "half a surrogate pair": (b'{"a": ["\\uD800"]}', r"surrogates not allowed"),
    "the other half in a key": (b'{"\\udc00": 0}', r"surrogates not allowed"),
    "a surrogate in UTF-8": (b'{"\xed\xa0\x80": 0}', r"can't decode byte 0xed"),
    "a line feed in a string": (b'{"a\n": 0}', r"Invalid control character"),
    "NaN": (b'{"a": NaN}', r"NaN, which JSON does not have"),
    "Infinity": (b'{"a": [-Infinity]}', r"-Infinity, which JSON does not have"),
    "a float that is infinite": (b'{"a": 1e999}', r"beyond the range of float64"),
    "-0": (b'{"a": -0}', r"-0, which is an integer to some"),
    "an integer of 5000 digits": (b'{"a": %s}' % (b"9" * 5000), r"4300 digits"),
    "a key twice": (b'{"a": 1, "a": 1}', r"key 'a' twice"),
    "a key twice, deep down": (b'{"a": [{"b": 1, "\\u0062": 2}]}', r"key 'b' twice"),
    "65 levels": (b'{"a":' * 65 + b"0" + b"}" * 65, r"nested deeper than 64 levels"),
    "100 000 levels": (b'{"a":' + b"[" * 100_000, r"nested deeper than 64 levels"),
    "100 000 objects in another": (b'{"a":' * 100_000, r"nested deeper than 64 levels"),
}


def text_cases() -> Iterator[tuple[str, Case]]:
    for base in BOTH:
        for file, field in documents(base).items():
            for what, (text, message) in TEXTS.items():
                is_weights = file == SHARD[base]
                content = len(text).to_bytes(8, "little") + text if is_weights else text
                wanted = rf"{re.escape(file)}: {field}: found no JSON \(.*{message}.*\), expected"
                yield f"{what} in {file}", Case(base, whole(file, content), wanted)


# What may not stand at a place of a header's entry; %d is the number of bytes of the tensor.
ENTRIES: Mapping[str, tuple[list[str], str, str]] = {
    "no object": ([], "null", r"\.scales: found null, expected an object"),
    "an array": ([], '["F16",[4,2],[0,16]]', r"\.scales: found an array of 3"),
    "no keys": ([], "{}", r"\.scales: found keys \[\], expected exactly"),
    "one key too many": (
        [],
        '{"dtype":"F16","shape":[],"data_offsets":[0,2],"x":{}}',
        r"\.scales: found keys \['data_offsets', 'dtype', 'shape', 'x'\]",
    ),
    "a dtype of no such name": (["dtype"], '"f16"', r"\.dtype: found 'f16', expected one of"),
    "a dtype of half a byte": (["dtype"], '"F4"', r"\.dtype: found 'F4'"),
    "a dtype that is a number": (["dtype"], "16", r"\.dtype: found 16"),
    "a dtype that is an array": (["dtype"], '["F16"]', r"\.dtype: found an array of 1"),
    "another width": (["dtype"], '"F32"', r"\.data_offsets: found \d+ bytes, expected \d+ bytes"),
    "a negative size": (["shape"], "[-8,-1]", r"\.shape: found \[-8, -1\]"),
    "a bool for a size": (["shape"], "[true,8]", r"\.shape: found an array of 2"),
    "a float for a size": (["shape"], "[8.0]", r"\.shape: found an array of 1"),
    "a string for a size": (["shape"], '["8"]', r"\.shape: found an array of 1"),
    "a string for a shape": (["shape"], '"8"', r"\.shape: found '8'"),
    "an object for a shape": (["shape"], '{"0":8}', r"\.shape: found an object with 1 keys"),
    "nine sizes": (["shape"], "[1,1,1,1,1,1,1,1,8]", r"\.shape: found an array of 9, expected"),
    "a million sizes": (["shape"], f"[{'1,' * 10**6}1]", r"\.shape: found an array of 1000001"),
    "a size of 2**64": (["shape"], f"[{2**64}]", r"\.shape: found an array of 1"),
    "a size of 4000 digits": (["shape"], f"[{10**4000}]", r"\.shape: found an array of 1"),
    "a product of 2**64": (["shape"], f"[{2**32},{2**32}]", r"\.shape: found .* expected at most"),
    "a product of 2**64 + 16": (["shape"], f"[{2**62 + 4},4]", r"\.shape: found"),
    "an overflow that a zero hides": (["shape"], f"[0,{2**61},{2**61}]", r"\.shape: found"),
    "another number of values": (["shape"], "[3]", r"\.data_offsets: found \d+ bytes, expected 6"),
    "one offset": (["data_offsets"], "[0]", r"\.data_offsets: found \[0\], expected a begin"),
    "an end before the begin": (["data_offsets"], "[16,0]", r"\.data_offsets: found \[16, 0\]"),
    "negative offsets": (["data_offsets"], "[-16,0]", r"\.data_offsets: found \[-16, 0\]"),
    "bools for offsets": (["data_offsets"], "[false,true]", r"\.data_offsets: found an array of 2"),
    "floats for offsets": (["data_offsets"], "[0.0,16.0]", r"\.data_offsets: found an array of 2"),
    "no offsets": (["data_offsets"], "null", r"\.data_offsets: found null"),
    "an end of 2**64": (["data_offsets"], f"[0,{2**64}]", r"\.data_offsets: found an array of 2"),
    "an overlap": (["data_offsets"], "[0,%d]", r"found an overlap, begin 0, expected begin"),
    "a hole": (["data_offsets"], "[1000000,1%06d]", r"found a hole before it, begin \d+, expected"),
}


def entry_cases() -> Iterator[tuple[str, Case]]:
    for base, nbytes in (("mlx", 16), ("blocks", 12)):
        for what, (place, text, message) in ENTRIES.items():
            filled = text % nbytes if "%" in text else text
            edits = value(SHARD[base], f"{Q_PROJ}.scales", *place, to=filled)
            yield f"{what}, {base}", Case(base, edits, message)


def container_cases() -> Iterator[tuple[str, Case]]:
    for base in BOTH:
        shard = SHARD[base]
        for length in (2**63, 2**64 - 1, 2**31, 10**6):
            head = [{"edit": "splice", "file": shard, "at": 0, "delete": 8, "insert": ""}]
            head[0]["insert"] = length.to_bytes(8, "little").hex()
            message = rf"header length: found {length}, expected at most \d+ of \d+ bytes"
            yield f"a header of {length}, {base}", Case(base, head, message)
        for content in (b"", b"\0" * 7, b"\2" + b"\0" * 7):
            message = r"header length: found \d, expected at most 0 of"
            yield f"{len(content)} bytes, {base}", Case(base, whole(shard, content), message)
        for text, found in (("[]", r"\[\]"), ('{"a":1}', "an object with 1 keys")):
            edits = value(shard, "__metadata__", to=text)
            yield f"metadata {text}, {base}", Case(base, edits, f"__metadata__: found {found}")
        surplus = [{"edit": "splice", "file": shard, "at": 1 << 40, "delete": 0, "insert": "00"}]
        yield (
            f"a byte too many, {base}",
            Case(base, surplus, r"size: found \d+, expected \d+ bytes"),
        )
        escape = {"edit": "key", "file": shard, "at": [f"{Q_PROJ}.scales"]}
        escape["key"] = "\x1b]0;owned\x07\r\n\u202e" + "x" * 5000
        edits = [escape, *value(shard, str(escape["key"]), "dtype", to='"\\u001b[2J"')]
        message = r"\\x1b\]0;owned\\x07\\r\\n\\u202exxx.*…"
        yield f"a name that terminals obey, {base}", Case(base, edits, message)


def index_cases() -> Iterator[tuple[str, Case]]:
    outside = (
        "../outside/{}",
        "{{outside}}/{}",
        "model/../../outside/{}",
        "./{}",
        "..\\outside\\{}",
    )
    names = ["..", ".", "", "/", "config.json", "model\0.safetensors", "x" * 5000]
    for base in BOTH:
        file, other = INDEX[base], SHARD["blocks" if base == "mlx" else "mlx"]
        for name in (*names, *(text.format(SHARD[base]) for text in outside)):
            edits = value(file, "weight_map", f"{Q_PROJ}.scales", to=json.dumps(name))
            missing = MissingFileError if "\0" in name and base == "mlx" else InvalidFileError
            message = "found nothing" if missing is MissingFileError else r"weight_map\.\S+: found"
            yield f"weight_map {name[:40]!r}, {base}", Case(base, edits, message, missing)
        for text in ("null", "[]", '"x"', "7"):
            edits = value(file, "weight_map", to=text)
            yield f"weight_map {text}, {base}", Case(base, edits, r": weight_map: found")
            edits = value(
                file, "weight_map", f"{Q_PROJ}.scales", to=text if text != '"x"' else "{}"
            )
            message = r"weight_map\.\S+\.scales: found .*, expected a file name"
            yield f"a shard {text}, {base}", Case(base, edits, message)
        edits = value(file, "metadata", to="[]")
        yield f"metadata, {base}", Case(base, edits, r"metadata: found \[\], expected an")
        edits = value(file, "weight_map", f"{Q_PROJ}.scales", to=json.dumps(other))
        error = MissingFileError if base == "mlx" else InvalidFileError
        yield f"the other layout, {base}", Case(base, edits, "found", error)
        drop = [{"edit": "drop", "file": file, "at": ["weight_map", f"{Q_PROJ}.scales"]}]
        message = rf"weight_map\.{Q_PROJ}\.scales: found nothing, expected {SHARD[base]}"
        yield f"an unlisted tensor, {base}", Case(base, drop, message)
        key = [{"edit": "key", "file": file, "at": ["weight_map", f"{Q_PROJ}.scales"], "key": "y"}]
        yield f"a listed nothing, {base}", Case(base, key, r"weight_map\.y: found .* does not have")


def description_cases() -> Iterator[tuple[str, Case]]:
    versions = (
        "3",
        "0",
        "-1",
        "true",
        "2.0",
        "null",
        "[2]",
        '""',
        '"3.0"',
        '"v2"',
        '"2.x"',
        '"2,0"',
    )
    for base in BOTH:
        for text in (*versions, str(10**30), '"\\u0662.0"', '"2.0\\n"', '"\\u001b[2J"'):
            edits = value(MANIFEST_FILE, "format_version", to=text)
            wanted = r"format_version: found .*, expected '1.0' or '2.0'$"
            case = Case(base, edits, wanted, UnsupportedVersionError)
            yield f"format_version {text}, {base}", case
        for key, text in (("format", "7"), ("format", '["jang"]'), ("format", '"gguf"')):
            case = Case(base, value(MANIFEST_FILE, key, to=text), "format", UnsupportedVersionError)
            yield f"{key} {text}, {base}", case
        edits = value(MANIFEST_FILE, "quantization", to='{"hadamard_rotation": 1}')
        case = Case(base, edits, "hadamard_rotation: found true", UnsupportedVersionError)
        yield f"rotated weights, {base}", case
        for text in ('"md5"', "null", "256", "[]"):
            edits = value(DIGESTS_FILE, "algorithm", to=text)
            yield f"algorithm {text}, {base}", Case(base, edits, "algorithm: found")
        for text in ("7", "null", '"A"', f'"{"A" * 64}"', f'"{"0" * 63}"', "[]"):
            edits = value(DIGESTS_FILE, "tensors", f"{Q_PROJ}.scales", to=text)
            message = r"tensors\.\S+\.scales: found .*, expected 64 lower-case hex digits"
            yield f"digest {text}, {base}", Case(base, edits, message)
    for text in ("0", "-64", "65", "64.0", '"64"', "true", "null", str(2**40), str(10**400)):
        edits = value("jjqf_config.json", "quantization", "block_size", to=text)
        message = r"quantization\.block_size: found .*, expected one of \(32, 64, 128\)"
        yield f"block_size {text}", Case("old blocks", edits, message)


def quantization_cases() -> Iterator[tuple[str, Case]]:
    """What config.json may not say of a module in MLX layout."""
    at = ("quantization", Q_PROJ)
    for text in (
        "null",
        "[]",
        "7",
        '"affine"',
        "{}",
        '{"bits":3}',
        '{"bits":true,"group_size":32}',
    ):
        message = r"quantization\.\S+q_proj: found .*, expected an object with bits and group_size"
        yield f"entry {text}", Case("mlx", value("config.json", *at, to=text), message)
    numbers = ("0", "-3", "7", "64", str(2**31), str(2**64), f"{10**4000}")
    for key in ("bits", "group_size"):
        for text in numbers:
            message = (
                r"quantization\.\S+q_proj: found .* bits in groups of .*, expected what fits 6"
            )
            edits = value("config.json", *at, key, to=text)
            yield f"{key} {text[:30]}", Case("mlx", edits, message)
        for text in ("3.0", "true", '"3"', "null", "[3]"):
            edits = value("config.json", *at, key, to=text)
            yield f"{key} {text}", Case("mlx", edits, r"found an object with 3 keys, expected an")
    for text in ('"mxfp4"', "1", "null", "[]"):
        edits = value("config.json", *at, "mode", to=text)
        yield f"mode {text}", Case("mlx", edits, r"mode: found .*, expected 'affine'")
    for text in ("null", "[]", "7", "false", '"x"'):
        edits = value("config.json", "quantization", to=text)
        yield f"quantization {text}", Case("mlx", edits, r"json: quantization: found")


def module_cases() -> Iterator[tuple[str, Case]]:
    """Tensors that are sound one by one, and not together."""
    shard, name = SHARD["mlx"], Q_PROJ
    parts = {"weight": ("U32", 6), "scales": ("F16", 2), "biases": ("F16", 2)}
    for rows in ([0], [2, 0], []):
        edits = [
            edit
            for part, (dtype, last) in parts.items()
            for edit in tensor(shard, f"{name}.{part}", dtype, [*rows, last], b"")
        ]
        message = r"weight: found U32 .*, expected U32 \[..., out, words\], not empty"
        yield f"rows {rows}", Case("mlx", edits, message)
    for part, dtype, shape, message in (
        ("weight", "I32", [4, 6], r"weight: found I32 \[4, 6\], expected U32"),
        ("weight", "U32", [4, 0], r"weight: found U32 \[4, 0\], expected U32"),
        ("weight", "U32", [4, 7], r"found 3 bits in groups of 32, expected what fits 7 words"),
        ("scales", "U16", [4, 2], r"scales\.dtype: found U16, expected one of"),
        ("scales", "F16", [2, 4], r"scales\.shape: found \[2, 4\], expected \[4\] and the groups"),
        ("scales", "F16", [4, 0], r"scales\.shape: found \[4, 0\]"),
        ("scales", "F16", [], r"scales\.shape: found \[\]"),
        ("biases", "BF16", [4, 2], r"biases: found BF16 \[4, 2\], expected F16 \[4, 2\] like its"),
        ("biases", "F16", [4, 1], r"biases: found F16 \[4, 1\]"),
    ):
        edits = tensor(shard, f"{name}.{part}", dtype, shape, b"\0")
        yield f"{part} {dtype} {shape}, mlx", Case("mlx", edits, message)
    for part in ("weight", "biases"):
        message = rf"{part}: found nothing, expected a tensor"
        yield f"no {part}, mlx", Case("mlx", without(shard, f"{name}.{part}"), message)


def shape_tensor(*sizes: int) -> tuple[str, str, list[int], bytes]:
    return "shape", "I64", [len(sizes)], np.array(sizes, dtype="<i8").tobytes()


def block_cases() -> Iterator[tuple[str, Case]]:
    shard, name = SHARD["blocks"], Q_PROJ
    offsets = np.array([0, 16, 48, 72, 88, 121], dtype="<u4").tobytes()
    for (part, dtype, shape, data), message in (
        (shape_tensor(-3, 100), r"shape: found \[-3, 100\], expected sizes of 1 or more"),
        (shape_tensor(0, 100), r"shape: found \[0, 100\]"),
        (shape_tensor(-(2**63), -(2**63)), r"shape: found \[-9223372036854775808,"),
        (shape_tensor(2**62, 100), r"shape: found \[4611686018427387904, 100\]"),
        (shape_tensor(2**39, 2**39, 2**39), r"shape: found .*, expected rows of whole blocks, 6"),
        (shape_tensor(2**32, 2**32, 384), r"shape: found .*, expected rows of whole blocks, 6"),
        (shape_tensor(4, 100), r"shape: found \[4, 100\], expected rows of whole blocks, 6 in"),
        (shape_tensor(300), r"shape: found 1 sizes, expected 2 to 8 sizes"),
        (shape_tensor(*([1] * 7), 3, 100), r"shape: found 9 sizes"),
        (("shape", "I64", [0, 2], b""), r"shape: found 0 sizes"),
        (("shape", "U64", [2], b"\3"), r"shape\.dtype: found U64, expected I64"),
        (("bit_map", "U8", [6], bytes([2, 4, 7, 2, 4, 3])), r"bit_map\[2\]: found 7, expected one"),
        (("bit_map", "U8", [6], bytes([2, 4, 3, 2, 4, 0])), r"bit_map\[5\]: found 0"),
        (("bit_map", "U8", [6], b"\xff"), r"bit_map\[0\]: found 255"),
        (("bit_map", "U8", [6], b"\2"), r"qweight: found 144 bytes, expected 96 by the bit map"),
        (("bit_map", "U8", [5], b"\2"), r"bit_map: found 5 numbers, expected 6, one for each"),
        (("bit_map", "I8", [6], b"\2"), r"bit_map\.dtype: found I8, expected U8"),
        (("block_offsets", "U32", [6], offsets), r"block_offsets\[5\]: found 121, expected 120"),
        (("block_offsets", "U32", [6], b"\xff"), r"block_offsets\[0\]: found 4294967295"),
        (("block_offsets", "I64", [6], b"\0"), r"block_offsets\.dtype: found I64"),
        (("scales", "F64", [6], b"\0"), r"scales\.dtype: found F64, expected F32 or F16 or BF16"),
        (("scales", "F16", [0], b""), r"found \d numbers, expected one or more, one for each"),
        (("zeros", "F32", [6], b"\0"), r"zeros\.dtype: found F32, expected F16"),
        (("zeros", "F16", [2, 2], b"\0"), r"zeros: found 4 numbers, expected 6"),
        (("qweight", "U8", [143], b"\0"), r"qweight: found 143 bytes, expected 144"),
        (("qweight", "U32", [36], b"\0"), r"qweight\.dtype: found U32, expected U8"),
    ):
        edits = tensor(shard, f"{name}.{part}", dtype, shape, data)
        yield f"{part} {dtype} {shape} {data.hex()[:40]}", Case("blocks", edits, message)
    for part in ("scales", "zeros", "bit_map"):
        message = rf"{part}: found nothing, expected a tensor"
        yield f"no {part}, blocks", Case("blocks", without(shard, f"{name}.{part}"), message)
    for shape, data, message in (
        ([1], b"\7", r"bits\[0\]: found 7, expected one of"),
        ([2], b"\4", r"bit_map: found bits for 2, expected a tensor"),
        ([0], b"", r"bit_map: found bits for 0"),
    ):
        edits = tensor(SHARD["old blocks"], f"{name}.bits", "U8", shape, data)
        yield f"bits {shape} {data.hex()}", Case("old blocks", edits, message)
    for text in ("0", "-64", "64.0", "true", "null", '"64"', str(2**40), str(10**400)):
        edits = value("config.json", "text_config", "hidden_size", to=text)
        message = r"_proj\.shape: found nothing, expected a tensor, for config.json does not tell"
        yield f"hidden_size {text[:30]}", Case("old blocks", edits, message)


def file_cases() -> Iterator[tuple[str, Case]]:
    """Anything but regular files of the directory."""
    for base in BOTH:
        for file in documents(base):
            for kind, target, message in (
                ("fifo", "", "found no regular file, expected a regular file"),
                ("link", "../outside/{file}", "link: found target .*, expected a file of this"),
                ("link", "{outside}/{file}", "link: found target .*outside"),
                ("link", "../model/../outside/{file}", "link: found target .*outside"),
                ("link", "{file}", "found .*(loop|symbolic links).*, expected a readable file"),
            ):
                edit: Edit = {"edit": kind, "file": file, "to": target}
                yield f"{file} a {kind} {target}, {base}", Case(base, [edit], message)
            if file == "config.json":
                for kind in ("directory", "link"):
                    edit = {"edit": kind, "file": file, "to": "."}
                    message = "found (no regular file|target .*), expected a"
                    yield f"{file} a {kind}, {base}", Case(base, [edit], message)
            if file in ("config.json", SHARD[base]):
                wanted = "found nothing, expected a file"
                for edit in (
                    {"edit": "remove", "file": file},
                    {"edit": "link", "file": file, "to": "nowhere"},
                ):
                    case = Case(base, [edit], wanted, MissingFileError)
                    yield f"{file} {edit['edit']}, {base}", case


CASES = [
    pytest.param(case, id=what)
    for cases in (
        text_cases(),
        entry_cases(),
        container_cases(),
        index_cases(),
        description_cases(),
        quantization_cases(),
        module_cases(),
        block_cases(),
        file_cases(),
    )
    for what, case in cases
]


class Hang(BaseException):
    """No exception that a reader catches."""


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(200)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, bytes]]:
    """The files of sound directories."""
    work = tmp_path_factory.mktemp("sound")
    return {base: damage.read_base(base, work) for base in damage.BASES}


def write(tmp_path: Path, files: Mapping[str, bytes], edits: Sequence[Edit] = ()) -> Path:
    """The directory with the edits, and a sound one outside, so that reading there would do."""
    directory, outside = tmp_path / "model", tmp_path / "outside"
    for place, contents in ((outside, files), (directory, damage.apply(files, edits))):
        place.mkdir()
        for name, content in contents.items():
            damage.put(place / name, content, outside)
    return directory


def read_everything(directory: Path) -> None:
    opened = read_directory(directory)
    for stored in opened.tensors.values():
        stored.map()
    for path in opened.quantized_paths():
        dequantize(opened.quantized(path))
    summarize(opened)
    if os.path.lexists(directory / DIGESTS_FILE):
        read_digests(directory, raise_first)


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_refused_by_name_in_one_line(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]], case: Case
) -> None:
    directory = write(tmp_path, sound[case.base], case.edits)
    with pytest.raises(case.error, match=case.message) as caught:
        read_everything(directory)
    message = str(caught.value)
    assert type(caught.value) is case.error
    assert message.startswith(str(directory))
    assert message.isprintable()
    assert len(message) < 1000
    assert not validate(directory).valid


@pytest.mark.parametrize("base", ["mlx", "blocks", "old mlx", "old blocks"])
def test_what_is_unusual_and_harmless_is_read(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]], base: str
) -> None:
    shard = SHARD[base]
    scales = {"mlx": [4, 2], "blocks": [6], "old mlx": [2, 2], "old blocks": [2]}[base]
    nan = tensor(shard, f"{Q_PROJ}.scales", "F16", scales, bytes.fromhex("007c007e01fc"))
    extra = tensor(shard, f"{Q_PROJ}.scales", "F16", scales, b"\1")[0]
    odd_name = {**extra, "name": None, "to": "\x1b[2J\n", "shape": []}
    spaces = [{"edit": "set", "file": "config.json", "at": ["x"], "text": "0"}]
    link = [
        {"edit": "rename", "file": "config.json", "to": "elsewhere.json"},
        {"edit": "copy", "file": "elsewhere.json", "to": "config.json"},
        {"edit": "link", "file": "config.json", "to": "./elsewhere.json"},
    ]
    directory = write(tmp_path, sound[base], [*nan, odd_name, *spaces, *link])
    assert (directory / "config.json").is_symlink()
    read_everything(directory)
    assert "\x1b[2J\n" in read_directory(directory).tensors


@pytest.mark.parametrize("version", ["1", "2", '"1.0"', '"2.0"', '"2.17"', '"1"'])
def test_known_major_versions_are_read_as_strings_and_as_integers(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]], version: str
) -> None:
    edits = value(MANIFEST_FILE, "format_version", to=version)
    read_everything(write(tmp_path, sound["mlx"], edits))


def test_a_snapshot_of_the_hugging_face_cache_is_read_through_its_links(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]]
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, (name, content) in enumerate(sound["mlx"].items()):
        (blobs / f"{number:064x}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number:064x}")
    read_everything(snapshot)
    assert validate(snapshot).valid
    stray = tmp_path / "stray"
    stray.write_bytes(sound["mlx"]["config.json"])
    for target in ("../../stray", str(stray), "../other/config.json", "../../blobs/../stray"):
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(target)
        with pytest.raises(JangFormatError, match=r"config\.json: (link|file): found"):
            read_directory(snapshot)


def test_a_module_that_is_not_there_is_named(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]]
) -> None:
    for base in BOTH:
        (tmp_path / base).mkdir()
        opened = read_directory(write(tmp_path / base, sound[base]))
        for path in ("nothing", "", "..", "norm"):
            with pytest.raises(InvalidFileError, match="found nothing, expected a tensor"):
                opened.quantized(path)
    (tmp_path / "half").mkdir()
    edits = without(SHARD["blocks"], f"{Q_PROJ}.qweight")
    opened = read_directory(write(tmp_path / "half", sound["blocks"], edits))
    with pytest.raises(InvalidFileError, match=r"q_proj\.qweight: found nothing"):
        opened.quantized(Q_PROJ)


def test_a_file_that_is_shortened_after_opening_is_refused_before_it_is_mapped(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]]
) -> None:
    directory = write(tmp_path, sound["mlx"])
    opened = read_directory(directory)
    os.truncate(directory / SHARD["mlx"], 100)
    with pytest.raises(InvalidFileError, match="found a shorter file than before, expected its"):
        opened.quantized(Q_PROJ)
    (directory / SHARD["mlx"]).unlink()
    with pytest.raises(InvalidFileError, match="found No such file or directory, expected its"):
        opened.quantized(Q_PROJ)


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, error in (
        (tmp_path / "file", MissingFileError),
        (tmp_path / "file" / "x", MissingFileError),
        (tmp_path / ("x" * 5000), InvalidFileError),
        (tmp_path / "\0", MissingFileError),
    ):
        with pytest.raises(error, match="directory: found") as caught:
            read_directory(path)
        assert str(caught.value).isprintable()
        assert not validate(path).valid


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read_are_refused(
    tmp_path: Path, sound: Mapping[str, Mapping[str, bytes]]
) -> None:
    for base in BOTH:
        (tmp_path / base).mkdir()
        directory = write(tmp_path / base, sound[base])
        for file in documents(base):
            (directory / file).chmod(0)
            with pytest.raises(InvalidFileError, match=r"file: found Permission denied, expected"):
                read_everything(directory)
            assert not validate(directory).valid
            (directory / file).chmod(0o600)


def test_files_that_are_too_large_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InvalidFileError, match=rf"size: found {1 << 40}, expected at most"):
        read_json(tmp_path / "config.json")
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write((LARGEST_JSON + 1).to_bytes(8, "little"))
        stream.truncate(1 << 40)
    with pytest.raises(InvalidFileError, match=rf"length: found {LARGEST_JSON + 1}, expected at"):
        read_header(tmp_path / "model.safetensors")


def heaviest_text() -> bytes:
    """The text that takes the most memory of all that are known, 32 MiB of it.

    All objects and arrays that are allowed, then short keys and values, all of them different and
    beyond Latin-1, and one character that makes four bytes of every other.
    """
    nested = b'{"":' * 60 + b"0" + b"}" * 60 + b","
    start = '{"a":["\U0001f600\\ud83d\\ude00",'.encode()
    text = start + nested * ((MOST_CONTAINERS - 4) // 60) + b'0],"b":{'
    letters = [chr(code) for code in range(0x100, 0x800)]
    entries: list[bytes] = []
    left = LARGEST_JSON - len(text) - 20
    for key in (a + b for a in letters for b in letters):
        entry = f'"{key}":"{letters[0]}",'.encode()
        left -= len(entry)
        if left < 0:
            break
        entries.append(entry)
    return text + b"".join(entries) + b'"z":0}}'


def many(unit: bytes) -> bytes:
    return b'{"a":[' + unit * ((LARGEST_JSON - 10) // len(unit)) + b"0]}"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much memory a process took")
@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (many(b"[],"), "more than 2097152 brackets"),
        (many(b"[" * 60 + b"]" * 60 + b","), "more than 2097152 brackets"),
        (many(b'"\xc4\x80",'), "fine"),
        (heaviest_text(), "fine"),
        (many(b"[],") + b" " * (1 << 20), "expected at most 33554432 bytes"),
    ],
    ids=["arrays", "arrays in arrays", "strings", "heaviest", "33 MB"],
)
def test_no_json_takes_more_memory_than_stated(tmp_path: Path, content: bytes, answer: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from jang_format import JangFormatError, read_json\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(status.split('VmHWM:')[1].split()[0]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "before, answer = peak(), 'fine'\n"
        "try:\n"
        "    content = read_json(Path(sys.argv[1]))\n"
        "except JangFormatError as error:\n"
        "    answer = error\n"
        "print(peak() - before, answer)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "config.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, _, found = ended.stdout.partition(" ")
    assert answer in found
    assert int(taken) < 1_300_000_000


def test_large_files_that_need_each_other_take_no_time_by_the_square(tmp_path: Path) -> None:
    weight_map = {f"{n}": f"x{n}" for n in range(100_000)}
    header: dict[str, object] = {}
    end = 0
    for n in range(3_000):
        for part, dtype, nbytes in (
            ("weight", "U32", 16),
            ("scales", "F16", 2),
            ("biases", "F16", 2),
        ):
            shape = [1, nbytes // (4 if dtype == "U32" else 2)]
            entry = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
            header[f"{n}.q_proj.{part}"] = entry
            end += nbytes
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + bytes(end)
    )
    config: dict[str, object] = {f"{n}": n for n in range(1_000_000)}
    config |= {"hidden_size": 32, "num_attention_heads": 2}
    config["quantization"] = {"bits": 4, "group_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert summarize(read_directory(tmp_path)).parameters == 3_000 * 32
    (tmp_path / INDEX["mlx"]).write_text(json.dumps({"weight_map": weight_map}))
    assert len(validate(tmp_path, read_data=False).problems) > 100_000
