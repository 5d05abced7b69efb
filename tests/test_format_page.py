"""docs/FORMAT.md is true: its examples are run, and its directories are read."""

import re
from pathlib import Path

import numpy as np
import pytest

from jang_format import (
    assemble,
    assemble_blocks,
    block_offsets,
    dequantize,
    encode_floats,
    pack_codes,
    read_directory,
    validate,
)
from jang_format._json import DEEPEST_JSON, LARGEST_JSON, MOST_CONTAINERS, parse_object

PAGE = (Path(__file__).parent.parent / "docs" / "FORMAT.md").read_text()
EXAMPLES = [
    line
    for block in re.findall(r"```example\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
FILES = re.findall(r"```(json|hex) file=(\S+)\n(.*?)```", PAGE, re.DOTALL)
NUMBER = r"(-?[\d.]+)"


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split()]


def check_packing(bits: str, codes: str, expected: str) -> None:
    padded = np.zeros((1, 32), dtype=np.uint8)
    padded[0, : len(numbers(codes))] = numbers(codes)
    packed = pack_codes(padded, int(bits)).tobytes()
    wanted = bytes.fromhex(expected)
    assert packed == wanted + bytes(len(packed) - len(wanted))
    # And without our code: the whole stream as one number.
    stream = sum(code << place * int(bits) for place, code in enumerate(numbers(codes)))
    assert stream.to_bytes(len(wanted), "little") == wanted


def check_f16(value: str, expected: str) -> None:
    stored = encode_floats(np.array([float(value)], dtype=np.float32), "F16")
    assert stored.tobytes() == bytes.fromhex(expected)


def check_value(code: str, scale: str, bias: str, expected: str) -> None:
    codes = np.full((1, 32), int(code), dtype=np.uint8)
    floats = [np.array([[float(number)]], dtype=np.float32) for number in (scale, bias)]
    assert dequantize(assemble(codes, *floats, 4, "F16"))[0, 0] == float(expected)


def check_zero(code: str, zero: str, scale: str, expected: str) -> None:
    codes = np.full((1, 1), int(code), dtype=np.uint8)
    floats = [np.array([[float(number)]], dtype=np.float32) for number in (scale, zero)]
    tensor = assemble_blocks(codes, *floats, np.array([[3]], dtype=np.uint8))
    assert dequantize(tensor)[0, 0] == float(expected)


def check_offsets(widths: str, expected: str) -> None:
    found = block_offsets(np.array(numbers(widths), dtype=np.uint8))
    assert found.tolist() == numbers(expected)


def check_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_object(text.encode())


def check_read(text: str) -> None:
    assert list(parse_object(text.encode())) == ["a"]


KINDS = {
    r"json refused: (.*)": check_refused,
    r"json read: (.*)": check_read,
    r"pack (\d): ([\d ]+) = ([\dA-F ]+)": check_packing,
    rf"f16: {NUMBER} = ([\dA-F ]+)": check_f16,
    rf"value code (\d+), scale {NUMBER}, bias {NUMBER} = {NUMBER}": check_value,
    rf"zero code (\d+), zero {NUMBER}, scale {NUMBER} = {NUMBER}": check_zero,
    r"offsets ([\d ]+) = ([\d ]+)": check_offsets,
}


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_of_the_page_is_right(line: str) -> None:
    found = [(check, match) for kind, check in KINDS.items() if (match := re.fullmatch(kind, line))]
    ((check, match),) = found
    check(*match.groups())


def test_the_page_has_an_example_of_every_kind_and_width() -> None:
    for kind in KINDS:
        assert any(re.fullmatch(kind, line) for line in EXAMPLES), kind
    assert {line[5] for line in EXAMPLES if line.startswith("pack")} == set("234568")
    assert "pack 3: 5 3 7 1 0 6 2 4 = DD 03 8B" in EXAMPLES


def test_the_page_states_the_bounds_of_json_that_the_reader_has() -> None:
    assert f"at most {LARGEST_JSON >> 20} MiB." in PAGE
    assert f"nested at most {DEEPEST_JSON} levels deep" in PAGE
    assert f"At most 2^{MOST_CONTAINERS.bit_length() - 1} of the bytes" in PAGE
    assert MOST_CONTAINERS.bit_count() == 1
    digits = re.findall(r"no integer of more than (\d+) digits", PAGE)
    check_read(f'{{"a": {"1" * int(digits[0])}}}')
    check_refused(f'{{"a": {"1" * (int(digits[0]) + 1)}}}')


def bytes_of(kind: str, content: str) -> bytes:
    """A file's bytes: JSON as it stands, or lines of hex digits and of quoted text."""
    if kind == "json":
        return content.encode()
    return b"".join(
        line[1:-1].encode() if line.startswith('"') else bytes.fromhex(line)
        for line in content.splitlines()
    )


@pytest.fixture
def directories(tmp_path: Path) -> Path:
    for kind, name, content in FILES:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes_of(kind, content))
    return tmp_path


@pytest.mark.parametrize("layout", ["mlx", "blocks"])
def test_the_smallest_directories_of_the_page_are_valid(directories: Path, layout: str) -> None:
    assert validate(directories / layout).problems == ()


def test_the_smallest_directories_hold_the_values_that_the_page_says(directories: Path) -> None:
    mlx = dequantize(read_directory(directories / "mlx").quantized("m"))
    assert mlx.tolist() == [[-1.0, -0.5, 0.0, 0.5] * 8]
    blocks = dequantize(read_directory(directories / "blocks").quantized("m"))
    first = [(code - 4) * 0.5 for code in [5, 3, 7, 1, 0, 6, 2, 4] + [0] * 56]
    second = [(code - 1.5) * 2 for code in [1, 2, 3, 0] + [0] * 60]
    assert blocks.tolist() == [first + second]
