"""What we read of a weight file, the safetensors library reads too, and reads alike.

Known to be stricter on our side: no more than 32 MiB and 2**21 brackets of header; no key twice, no
further key in an entry; no entry that is an array (serde takes one for a struct); at most 8 sizes,
and products without zeros below 2**59; no dtypes that are narrower than a byte, complex, or F8_E8M0
and its like.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize, safe_open
from safetensors.numpy import save

from jang_format import STORAGE, JangFormatError, read_header

# The others are known to files and not to numpy.
NUMPY_DTYPES = [name for name in STORAGE if not name.startswith(("F8", "BF"))]

Content = dict[str, tuple[str, tuple[int, ...], bytes]]

many = settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
names = st.text(max_size=4).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.dictionaries(names, st.tuples(st.sampled_from(list(STORAGE)), shapes), max_size=4)
hostile_tokens = st.sampled_from(
    [
        *("0", "1", "2", "-0", "-1", "1.0", "1e0", "0.0", "00", "true", "false", "null", "NaN"),
        *(str(2**62 - 1), str(2**62), str(2**63), str(2**64 - 1), str(2**64), "9" * 40, "[]"),
        *("{}", "[", "]", "{", "}", ",", ":", '"', "\\", " ", "\n", "\t", "\x00", "\x0b", "\ufeff"),
        *('"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"x"', '""', "'x'", "/**/"),
        *('"F4"', '"F8_E8M0"', '"C64"', '"f16"', '"U8"', '"\\ud800"', '"\\ud83d\\ude00"', "\xa0"),
        '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}',
        '"y":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
    ]
)


def weight_file(header: bytes, data: bytes, length: int | None = None) -> bytes:
    stated = len(header) if length is None else length
    return stated.to_bytes(8, "little") + header + data


@st.composite
def sound_files(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """The tokens of a sound header, and data; in another order and spacing than writers choose."""
    header: dict[str, Any] = draw(
        st.sampled_from([{}, {"__metadata__": {"format": "pt"}}, {"__metadata__": None}])
    ).copy()
    end = 0
    for name, (dtype, shape) in draw(tensors).items():
        nbytes = math.prod(shape) * STORAGE[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    items = draw(st.permutations(list(header.items())))
    text = json.dumps(dict(items), ensure_ascii=draw(st.booleans()))
    return re.findall(r'"(?:[^"\\]|\\.)*"|\w+|.', text, re.DOTALL), bytes(n % 2 for n in range(end))


@st.composite
def damaged_headers(draw: st.DrawFn) -> bytes:
    """A weight file whose header has a few tokens changed, or whose lengths are not true."""
    tokens, data = draw(sound_files())
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        place = draw(st.integers(0, len(tokens) - 1))
        other = draw(st.integers(0, len(tokens) - 1))
        numbers = [n for n, token in enumerate(tokens) if token.isdecimal()]
        kind = draw(
            st.sampled_from(["number", "number", "space", "replace", "insert", "remove", "repeat"])
        )
        if kind == "number" and numbers:
            place = draw(st.sampled_from(numbers))
            tokens[place] = draw(st.sampled_from(["-0", "0", "1", "2", f"-{tokens[place]}"]))
        elif kind == "space":
            tokens.insert(place, draw(st.sampled_from([" ", "\n", "\t", "\r", "\x0b", "\xa0"])))
        elif kind == "replace":
            tokens[place] = draw(hostile_tokens)
        elif kind == "insert":
            tokens.insert(place, draw(hostile_tokens))
        elif kind == "remove" and len(tokens) > 1:
            del tokens[place]
        else:
            tokens[place:place] = tokens[place : place + other % 20]
    header = "".join(tokens).encode()
    lies = st.sampled_from([*(0 for _ in range(30)), -1, 1])
    surplus, length = draw(lies), max(len(header) + draw(lies), 0)
    return weight_file(header, (data + b"x")[: max(len(data) + surplus, 0)], length)


@st.composite
def damaged_bytes(draw: st.DrawFn) -> bytes:
    """A sound weight file with a few bytes changed, put in or taken away, anywhere."""
    tokens, data = draw(sound_files())
    content = bytearray(weight_file("".join(tokens).encode(), data))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        removed = draw(st.integers(0, 2))
        content[place : place + removed] = draw(st.binary(max_size=2))
    return bytes(content)


def read_with_ours(file: Path) -> Content | None:
    """What the file holds, None if it is refused."""
    try:
        header = read_header(file)
    except JangFormatError:
        return None
    return {
        name: (stored.spec.dtype, stored.spec.shape, stored.map().tobytes())
        for name, stored in header.items()
    }


def read_with_the_library(file: Path) -> Content:
    with safe_open(file, framework="numpy") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        listed = {
            name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
        }
    # That is all there is for dtypes that numpy lacks; the bytes come from here.
    data = {name: bytes(entry["data"]) for name, entry in deserialize(file.read_bytes())}
    return {name: (*listed[name], data[name]) for name in listed}


@many
@given(damaged_headers() | damaged_headers() | damaged_bytes())
def test_what_we_accept_the_library_accepts_and_reads_alike(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    ours = read_with_ours(file)
    if ours is not None:
        assert read_with_the_library(file) == ours


@pytest.mark.parametrize("number", ["0", "-0", "0.0", "0e0"])
def test_a_zero_is_one_to_both_or_to_the_library_alone(tmp_path: Path, number: str) -> None:
    header = f'{{"a":{{"dtype":"U8","shape":[{number}],"data_offsets":[0,0]}}}}'
    (tmp_path / "x.safetensors").write_bytes(weight_file(header.encode(), b""))
    ours = read_with_ours(tmp_path / "x.safetensors")
    assert (ours is not None) == (number == "0")
    if ours is not None:
        assert read_with_the_library(tmp_path / "x.safetensors") == ours


@many
@given(
    specs=st.dictionaries(names, st.tuples(st.sampled_from(NUMPY_DTYPES), shapes), max_size=4),
    # Without tensors and with empty metadata the library writes what it cannot read.
    metadata=st.none() | st.dictionaries(st.text(), st.text(), min_size=1, max_size=2),
)
def test_what_the_library_writes_we_read_alike(
    tmp_path: Path, specs: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    arrays = {
        name: np.full(shape, number % 2, dtype=STORAGE[dtype])
        for number, (name, (dtype, shape)) in enumerate(specs.items())
    }
    file = tmp_path / "x.safetensors"
    file.write_bytes(save(arrays, metadata))
    assert read_with_ours(file) == {
        name: (specs[name][0], array.shape, array.tobytes()) for name, array in arrays.items()
    }
