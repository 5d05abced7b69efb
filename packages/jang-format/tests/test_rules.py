"""Each rule of docs/FORMAT.md, broken in a directory without digests, is named in one line."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest

from jang_format import LAYOUTS, MANIFEST_FILE, STORAGE, TensorSpec, read_directory, validate
from jang_format._safetensors import lay_out

Damage = Callable[[Path], object]
Tensors = dict[str, tuple[str, str, np.ndarray[Any, Any]]]
Edit = Callable[[Any], object]

MUTATIONS = run_path(str(Path(__file__).with_name("mutations.py")))
edit_json = MUTATIONS["edit_json"]

QUERY = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.switch_mlp.down_proj"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A sound directory of each layout, without digests; not to be changed."""
    home = tmp_path_factory.mktemp("written")
    write, remove_digests = MUTATIONS["write_directory"], MUTATIONS["remove_digests"]
    return {name: remove_digests(write(home / name, name)) for name in LAYOUTS}


# Ways to damage a directory.


def config(edit: Edit) -> Damage:
    return lambda directory: edit_json(directory / "config.json", edit)


def quantization(edit: Edit) -> Damage:
    return config(lambda content: edit(content["quantization"]))


def manifest(edit: Edit) -> Damage:
    return lambda directory: edit_json(directory / MANIFEST_FILE, edit)


def index(edit: Edit) -> Damage:
    return lambda directory: edit_json(next(directory.glob("*.index.json")), edit)


def header(edit: Edit) -> Damage:
    """Change what the last weight file says; its data stay."""

    def damage(directory: Path) -> None:
        file = max(directory.glob("*.safetensors"))
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        parsed = json.loads(content[8:end])
        edit(parsed)
        text = json.dumps(parsed, separators=(",", ":")).encode().ljust(end - 8)
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])

    return damage


def tensors(edit: Edit) -> Damage:
    """Change tensors `(file, dtype, data)` by name, and write files and index that fit them."""

    def damage(directory: Path) -> None:
        opened = read_directory(directory)
        held: Tensors = {
            name: (tensor.file.name, tensor.spec.dtype, tensor.map().copy())
            for name, tensor in opened.tensors.items()
        }
        edit(held)
        for name, weight_file in opened.weight_files.items():
            specs = [TensorSpec(n, t, d.shape) for n, (file, t, d) in held.items() if file == name]
            layout = lay_out(specs, weight_file.metadata)
            content = bytearray(layout.nbytes)
            content[: len(layout.header)] = layout.header
            for tensor, offset in layout.offsets.items():
                raw = held[tensor][2].tobytes()
                content[offset : offset + len(raw)] = raw
            (directory / name).write_bytes(content)
        total = sum(data.nbytes for _, _, data in held.values())
        stated = {"metadata": {"total_size": total}}
        stated["weight_map"] = {name: file for name, (file, _, _) in held.items()}
        index(lambda content: content.update(stated))(directory)
        size = sum((directory / name).stat().st_size for name in opened.weight_files)
        manifest(lambda content: content["runtime"].update(total_weight_bytes=size))(directory)

    return damage


def put(key: Any, value: Any) -> Edit:
    """Set an item of an object, or of a tensor's numbers in one row."""
    return lambda content: content.__setitem__(key, value)


def drop(key: str) -> Edit:
    return lambda content: content.pop(key)


def inside(key: str, edit: Edit) -> Edit:
    return lambda content: edit(content[key])


def numbers(name: str, edit: Edit) -> Damage:
    """Change the data of a tensor in place."""
    return tensors(lambda held: edit(held[name][2].reshape(-1)))


def stored(name: str, dtype: str, shape: tuple[int, ...] | None = None) -> Damage:
    """Store a tensor in another dtype or shape, all ones."""

    def edit(held: Tensors) -> None:
        file, _, data = held[name]
        held[name] = (file, dtype, np.ones(shape or data.shape, dtype=STORAGE[dtype]))

    return tensors(edit)


def without(name: str) -> Damage:
    return tensors(lambda held: held.pop(name))


def renamed(old: str, new: str) -> Damage:
    return tensors(lambda held: held.update({new: held.pop(old)}))


def moved(name: str) -> Damage:
    """Into the last file."""
    return tensors(lambda held: held.update({name: (held[NORM][0], *held[name][1:])}))


def delete(pattern: str) -> Damage:
    return lambda directory: max(directory.glob(pattern)).unlink()


def write(name: str, content: bytes) -> Damage:
    return lambda directory: (directory / name).write_bytes(content)


def last_file(change: Callable[[bytes], bytes]) -> Damage:
    def damage(directory: Path) -> None:
        file = max(directory.glob("*.safetensors"))
        file.write_bytes(change(file.read_bytes()))

    return damage


def linked(name: str, target: str) -> Damage:
    def damage(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(target)

    return damage


def copied(name: str) -> Damage:
    return lambda directory: shutil.copy(min(directory.glob("*.safetensors")), directory / name)


def halved(held: Tensors) -> None:
    """Blocks of 32 of the query's numbers, as old directories have them."""
    for part, change in (
        ("qweight", lambda data: data[: data.size // 2]),
        ("block_offsets", lambda data: data // 2),
        ("shape", lambda data: data // [1, 2]),
    ):
        file, dtype, data = held[f"{QUERY}.{part}"]
        held[f"{QUERY}.{part}"] = (file, dtype, change(data))


def only_the_norm(held: Tensors) -> None:
    for name in held.keys() - {NORM}:
        del held[name]


def swapped(content: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    return {one: content[other], other: content[one]}


def each(*damages: Damage) -> Damage:
    return lambda directory: [damage(directory) for damage in damages]


@dataclass(frozen=True)
class Rule:
    """A damage, and the problems that it leads to.

    Attributes:
        layouts: Where it applies.
        damage: What is done to a sound directory.
        expected: How the problems begin: severity, file, field and what was found. An ellipsis at
            the end stands for others that follow from them.
    """

    layouts: tuple[str, ...]
    damage: Damage
    expected: tuple[Any, ...]


def both(damage: Damage, *expected: Any) -> Rule:
    return Rule(("mlx", "blocks"), damage, expected)


def mlx(damage: Damage, *expected: Any) -> Rule:
    return Rule(("mlx",), damage, expected)


def blocks(damage: Damage, *expected: Any) -> Rule:
    return Rule(("blocks",), damage, expected)


READER = [
    both(delete("config.json"), "error config file: nothing", ...),
    both(write("config.json", b"{"), "error config content: no JSON", ...),
    both(
        write("config.json", b'{"a": 1, "a": 2}'),
        "error config content: no JSON (key 'a' twice)",
        ...,
    ),
    both(linked("config.json", "/etc/passwd"), "error config link: ", ...),
    both(linked("tokenizer.json", "/etc/passwd"), "error tokenizer.json link: "),
    both(linked("tokenizer.json", "tokenizer.json"), "error tokenizer.json file: "),
    both(
        lambda directory: os.mkfifo(directory / "chat_template.jinja"),
        "error chat_template.jinja file: no regular file",
    ),
    both(
        each(lambda directory: [file.unlink() for file in directory.glob("*.safetensors")]),
        "error last file: nothing",
        ...,
    ),
    both(delete("*.safetensors"), "error last file: nothing", ...),
    both(
        copied("model-old.safetensors"),
        "error model-old.safetensors file: a weight file, expected none, index does not",
    ),
    mlx(
        copied("model.jang.safetensors"),
        "error query file: a weight file, expected weight files of one layout",
        ...,
    ),
    mlx(
        each(delete("*.index.json"), copied("model-old.safetensors")),
        "error model-old.safetensors model.embed_tokens.scales: a tensor, expected none, query",
        ...,
    ),
]
INDEX = [
    both(delete("*.index.json"), "warning index file: nothing"),
    both(index(put("weight_map", [])), "error index weight_map: []", ...),
    both(index(put("metadata", 1)), "error index metadata: 1"),
    both(index(inside("metadata", put("total_size", 1))), "error index metadata.total_size: 1"),
    both(index(inside("weight_map", put(NORM, 1))), f"error index weight_map.{NORM}: 1", ...),
    both(index(inside("weight_map", put(NORM, "../x"))), f"error index weight_map.{NORM}: '../x'"),
    both(
        index(inside("weight_map", lambda files: files.update(x=files[NORM]))),
        "error index weight_map.x: last, which does not have it, expected no entry",
    ),
    both(
        index(inside("weight_map", drop(NORM))),
        f"error index weight_map.{NORM}: nothing, expected last",
    ),
    both(
        index(inside("weight_map", lambda files: files.update({NORM: files[f"{QUERY}.bias"]}))),
        f"error index weight_map.{NORM}: query, which does not have it, expected last",
    ),
]
SHARDS = [
    both(last_file(lambda _: b"\2" + bytes(7) + b"{x"), "error last header: ", ...),
    both(last_file(lambda _: b"\xff" * 16), "error last header length: ", ...),
    both(last_file(lambda content: content[:-1]), "error last size: ", ...),
    both(last_file(lambda content: content + b"x"), "error last size: ", ...),
    both(header(put(NORM, 1)), f"error last {NORM}: 1, expected an object", ...),
    both(
        header(inside(NORM, put("shape", [1] * 9))), f"error last {NORM}.shape: an array of 9", ...
    ),
    both(header(inside(NORM, put("x", 1))), f"error last {NORM}: keys", ...),
    both(header(inside(NORM, put("dtype", "F4"))), f"error last {NORM}.dtype: 'F4'", ...),
    both(
        header(inside(NORM, put("shape", [127]))),
        f"error last {NORM}.data_offsets: 256 bytes, expected 254 bytes for F16 [127]",
        ...,
    ),
    both(
        header(inside(NORM, put("data_offsets", [2, 1]))),
        f"error last {NORM}.data_offsets: [2, 1]",
        ...,
    ),
    blocks(header(drop(NORM)), "error last lm_head.bit_map.data_offsets: a hole before it", ...),
    blocks(
        header(inside(NORM, put("data_offsets", [0, 256]))),
        f"error last {NORM}.data_offsets: an overlap",
        ...,
    ),
    both(
        header(put("__metadata__", {"format": 1})),
        "error last __metadata__: an object with 1 keys, expected an object of strings",
        ...,
    ),
    both(
        header(put("__metadata__", {"format": "pt"})),
        "warning last __metadata__: an object with 1 keys, expected {'format': ",
    ),
    mlx(
        header(
            lambda entries: entries.update(swapped(entries, "lm_head.biases", "lm_head.scales"))
        ),
        "warning last data_offsets: tensors in another order",
    ),
]
MANIFEST = [
    both(delete(MANIFEST_FILE), "error manifest file: nothing"),
    both(write(MANIFEST_FILE, b"["), "error manifest content: no JSON"),
    both(
        write(MANIFEST_FILE, b"{}"),
        "error manifest format: nothing",
        "error manifest format_version: null",
    ),
    both(manifest(drop("format")), "error manifest format: nothing"),
    both(manifest(put("format", "gguf")), "error manifest format: 'gguf'"),
    both(
        manifest(put("format_version", "3.0")),
        "error manifest format_version: '3.0', expected '1.0' or '2.0'",
        ...,
    ),
    mlx(
        manifest(put("format_version", "1.0")),
        "error manifest format_version: '1.0', expected '2.0'",
    ),
    blocks(
        manifest(put("format_version", "2.0")),
        "error manifest format_version: '2.0', expected '1.0'",
    ),
    mlx(manifest(put("format_version", 2)), "error manifest format_version: 2, expected '2.0'"),
    both(manifest(put("weight_format", "mxtq")), "error manifest weight_format: 'mxtq'"),
    both(
        manifest(inside("quantization", put("hadamard_rotation", True))),
        "error manifest quantization.hadamard_rotation: true",
    ),
    both(manifest(put("runtime", [])), "error manifest runtime: []"),
    both(manifest(inside("roles", put("x", "mlp"))), "error manifest roles.x: a role"),
    both(manifest(inside("roles", put("lm_head", 1))), "error manifest roles.lm_head: 1"),
    both(manifest(inside("roles", drop("lm_head"))), "warning manifest roles.lm_head: nothing"),
    both(
        manifest(inside("quantization", put("bit_widths_used", [4]))),
        "error manifest quantization.bit_widths_used: [4]",
    ),
    both(
        manifest(inside("quantization", put("block_size", 32))),
        "warning manifest quantization.block_size: 32",
    ),
    blocks(
        manifest(inside("quantization", put("block_size", 7))),
        "error manifest quantization.block_size: 7, expected one of (32, 64, 128)",
    ),
    both(
        manifest(inside("architecture", put("type", "x"))),
        "warning manifest architecture.type: 'x', expected 'toy'",
    ),
    both(
        manifest(inside("runtime", put("total_weight_bytes", 1))),
        "warning manifest runtime.total_weight_bytes: 1",
    ),
    both(manifest(put("digests", "jang_digests.json")), "error jang_digests.json file: nothing"),
    both(
        lambda directory: (directory / MANIFEST_FILE).rename(directory / "jang_cfg.json"),
        "warning jang_cfg.json file name: jang_cfg.json, expected manifest",
    ),
]
CONFIG = [
    mlx(config(drop("quantization")), "error config quantization: null"),
    mlx(config(put("quantization", [])), "error config quantization: []"),
    mlx(
        each(tensors(only_the_norm), config(put("quantization", []))),
        "error config quantization: []",
        ...,
    ),
    mlx(quantization(drop("bits")), "error config quantization.bits: null"),
    mlx(
        quantization(put("group_size", 48)),
        "error config quantization.group_size: 48, expected 32 or 64 or 128",
    ),
    mlx(
        quantization(put("mode", "mxfp4")),
        "error config quantization.mode: 'mxfp4', expected 'affine'",
    ),
    mlx(
        quantization(put("x", 1)),
        "error config quantization.x: 1, expected entries of modules only",
    ),
    mlx(
        quantization(lambda entry: entry.update(x=entry["lm_head"])),
        "error config quantization.x: an entry, expected a quantized module",
    ),
    mlx(quantization(put("model.norm", False))),
    mlx(quantization(put("lm_head", False)), "error config quantization.lm_head: false"),
    mlx(quantization(inside("lm_head", put("x", 1))), "error config quantization.lm_head.x: a key"),
    mlx(
        quantization(inside("lm_head", put("bits", 4))),
        "error config quantization.lm_head: 4 bits in groups of 128",
    ),
    mlx(
        quantization(inside("lm_head", drop("bits"))),
        "error config quantization.lm_head: an object with 2 keys",
    ),
    mlx(
        quantization(inside("lm_head", put("mode", "mxfp4"))),
        "error config quantization.lm_head.mode: 'mxfp4'",
    ),
    mlx(
        quantization(inside("lm_head", drop("mode"))),
        "warning config quantization.lm_head.mode: nothing",
    ),
    mlx(
        quantization(drop("lm_head")),
        "warning config quantization.lm_head: no entry for 8 bits in groups of 128",
    ),
    mlx(
        config(lambda content: content.update(quantization_config=content["quantization"])),
        "warning config quantization_config: a key",
    ),
    mlx(
        config(put("quantization_config", {"bits": 4})),
        "error config quantization_config: an object with 1 keys, expected a copy",
        "warning config quantization_config: a key",
    ),
    blocks(
        config(put("quantization", {"bits": 4, "group_size": 64})),
        "error config quantization: an entry, which MLX programs would follow",
    ),
]
TENSORS = [
    both(stored(NORM, "I32"), f"warning last {NORM}.dtype: I32"),
    both(numbers(NORM, put(0, np.nan)), f"warning last {NORM}: NaN"),
    both(
        numbers(f"{QUERY}.scales", put(3, np.nan)), f"error query {QUERY}.scales: NaN or infinity"
    ),
    mlx(  # BF16: minus infinity.
        numbers("lm_head.biases", put(3, 0xFF80)), "error last lm_head.biases: NaN or infinity"
    ),
    blocks(
        numbers(f"{QUERY}.zeros", put(3, np.inf)), f"error query {QUERY}.zeros: NaN or infinity"
    ),
    both(
        renamed(NORM, "model.norm.awq_scales"),
        "error last model.norm.awq_scales: a tensor of another format",
    ),
    mlx(
        renamed(f"{QUERY}.scales", f"{QUERY}.oops"),
        f"error query {QUERY}.biases: a part of a module, expected {QUERY} with all its parts",
        ...,
    ),
    blocks(
        renamed(f"{QUERY}.qweight", f"{QUERY}.oops"),
        f"error query {QUERY}.bit_map: a part of a module",
        ...,
    ),
    blocks(config(put("quantization_config", {})), "error config quantization_config: an entry"),
    both(moved(f"{QUERY}.scales"), f"warning last {QUERY}.scales: a tensor of a module in query"),
]
MLX = [
    mlx(without(f"{QUERY}.weight"), f"error . {QUERY}.weight: nothing"),
    mlx(without(f"{QUERY}.biases"), f"error . {QUERY}.biases: nothing"),
    mlx(without(f"{QUERY}.scales"), f"error config quantization.{QUERY}: an entry", ...),
    mlx(stored(f"{QUERY}.weight", "I32"), f"error query {QUERY}.weight: I32 [32, 16]"),
    mlx(
        stored(f"{QUERY}.weight", "U32", (32, 17)),
        f"error config quantization.{QUERY}: 4 bits in groups of 64, expected what",
    ),
    mlx(stored(f"{QUERY}.scales", "I32"), f"error query {QUERY}.scales.dtype: I32"),
    mlx(stored(f"{QUERY}.scales", "F16", (31, 2)), f"error query {QUERY}.scales.shape: [31, 2]"),
    mlx(stored(f"{QUERY}.biases", "F32"), f"error query {QUERY}.biases: F32 [32, 2]"),
    mlx(
        each(stored(f"{QUERY}.scales", "F32"), stored(f"{QUERY}.biases", "F32")),
        f"warning query {QUERY}.scales.dtype: F32",
    ),
]
BLOCKS = [
    *(
        blocks(
            without(f"{QUERY}.{part}"),
            f"error . {QUERY}.{part}: nothing",
            f"warning query {QUERY}: no {part}",
        )
        for part in ("scales", "zeros", "bit_map")
    ),
    *(
        blocks(without(f"{QUERY}.{part}"), f"warning query {QUERY}: no {part}")
        for part in ("block_offsets", "shape")
    ),
    blocks(without(f"{QUERY}.qweight"), f"error manifest roles.{QUERY}: a role", ...),
    blocks(stored(f"{QUERY}.zeros", "F32"), f"error query {QUERY}.zeros.dtype: F32, expected F16"),
    blocks(
        each(stored(f"{QUERY}.scales", "F32"), stored(f"{QUERY}.zeros", "F32")),
        f"warning query {QUERY}.scales: F32 [64], expected F16 [64]",
        f"warning query {QUERY}.zeros: F32 [64], expected F16 [64]",
    ),
    blocks(
        stored(f"{QUERY}.scales", "F16", (32, 2)),
        f"warning query {QUERY}.scales: F16 [32, 2], expected F16 [64]",
    ),
    blocks(tensors(halved), f"warning query {QUERY}: blocks of 32, expected blocks of 64"),
    blocks(
        stored(f"{QUERY}.zeros", "F16", (63,)),
        f"error query {QUERY}.zeros: 63 numbers, expected 64",
    ),
    blocks(numbers(f"{QUERY}.bit_map", put(5, 7)), f"error query {QUERY}.bit_map[5]: 7"),
    blocks(
        numbers(f"{QUERY}.bit_map", put(5, 8)),
        f"error query {QUERY}.qweight: 2008 bytes, expected 2048 by the bit map",
    ),
    blocks(
        numbers(f"{QUERY}.block_offsets", put(5, 8)), f"error query {QUERY}.block_offsets[5]: 8"
    ),
    blocks(
        numbers(f"{QUERY}.shape", put(0, 31)),
        f"error query {QUERY}.shape: [31, 128], expected rows of whole blocks, 64",
    ),
    blocks(
        numbers(f"{QUERY}.shape", put(0, 0)),
        f"error query {QUERY}.shape: [0, 128], expected sizes of 1 or more",
    ),
    blocks(stored(f"{QUERY}.shape", "I64", (1,)), f"error query {QUERY}.shape: 1 sizes"),
    blocks(
        numbers(f"{DOWN}.qweight", put(-1, 1)),
        f"error model-00003-of-00004.jang.safetensors {DOWN}.qweight: codes in the padding",
    ),
]
RULES = [*READER, *INDEX, *SHARDS, *MANIFEST, *CONFIG, *TENSORS, *MLX, *BLOCKS]
CASES = [
    pytest.param(layout, broken, id=f"{layout} {str(broken.expected[:1])[2:-3]}")
    for broken in RULES
    for layout in broken.layouts
]


def problem_lines(directory: Path, names: Mapping[str, str]) -> list[str]:
    """Problems in the words of the table above, which has short names for some files."""
    lines: list[str] = []
    for problem in validate(directory).problems:
        file = str(Path(problem.file).relative_to(directory))
        line = f"{problem.severity} {file} {problem.field}: {problem.found}, expected "
        line += problem.expected
        for name, short in names.items():
            line = line.replace(name, short)
        lines.append(line)
    return lines


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_directory_has_no_problem(written: Mapping[str, Path], layout: str) -> None:
    assert validate(written[layout]).problems == ()


@pytest.mark.parametrize(("layout", "broken"), CASES)
def test_a_broken_rule_is_named(
    written: Mapping[str, Path], tmp_path: Path, layout: str, broken: Rule
) -> None:
    directory = Path(shutil.copytree(written[layout], tmp_path / layout))
    opened = read_directory(directory)
    names = {
        opened.tensors[f"{QUERY}.scales"].file.name: "query",
        max(opened.weight_files): "last",
        opened.layout.index: "index",
        MANIFEST_FILE: "manifest",
        "config.json": "config",
    }
    broken.damage(directory)
    found = problem_lines(directory, names)
    wanted = [line for line in broken.expected if line is not ...]
    for line in wanted:
        assert any(problem.startswith(line) for problem in found), (line, found)
    if ... not in broken.expected:
        assert len(found) == len(wanted), found
    assert validate(directory).valid is not any(line.startswith("error") for line in found)


def test_a_weight_file_of_several_modules_is_at_most_as_large_as_they_are_written(
    written: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_format._rules.DEFAULT_SHARD_BYTES", 1_000)
    sizes = [p for p in validate(written["mlx"]).problems if p.field == "size"]
    assert [(p.severity, p.expected[:13]) for p in sizes] == [("warning", "at most 1000 ")] * 3
