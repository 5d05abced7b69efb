"""Random damage to written directories: how much of it does `validate` find?

    uv run python packages/jang-format/tests/mutations.py [--cases 1000] [--seed 0] [DIR]

Each case takes a sound directory, does one random thing to it and validates it: with digests, which
have to find everything that matters, and without them, for what the rules alone find. Without DIR
it takes a small directory of each layout. Exit status 1: something that matters was not found.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from jang_format import (
    BLOCK_LAYOUT,
    DIGESTS_FILE,
    LAYOUTS,
    MANIFEST_FILE,
    MLX_LAYOUT,
    LayoutName,
    Provenance,
    QuantizedModule,
    StoredTensor,
    TensorSpec,
    Validation,
    assemble,
    assemble_blocks,
    block_arrays,
    block_specs,
    manifest,
    mlx_arrays,
    mlx_specs,
    open_writer,
    quantization_config,
    read_directory,
    validate,
)

SHARD_BYTES = 8_000
CONFIG = {
    "architectures": ["ToyForCausalLM"],
    "model_type": "toy",
    "hidden_size": 128,
    "eos_token_id": [1, 2],
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
# Path, shape, bits and group size in MLX layout, widths in block layout.
MODULES: list[tuple[str, tuple[int, ...], int, int, tuple[int, ...]]] = [
    ("model.embed_tokens", (48, 128), 6, 64, (6,)),
    ("model.layers.0.self_attn.q_proj", (32, 128), 4, 64, (3, 4, 5)),
    ("model.layers.0.mlp.switch_mlp.up_proj", (3, 16, 128), 2, 32, (2, 3)),
    ("model.layers.0.mlp.switch_mlp.down_proj", (3, 16, 160), 3, 32, (2, 4, 8)),
    ("lm_head", (48, 128), 8, 128, (8,)),
]
FLOATS = {
    "model.norm.weight": ("F16", (128,)),
    "model.layers.0.input_layernorm.weight": ("BF16", (128,)),
    "model.layers.0.self_attn.q_proj.bias": ("F16", (32,)),
}
# Stock loaders read them, and this format leaves them as they are.
OTHER_FILES = {
    "tokenizer.json": json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}, indent=2),
    "merges.txt": "a b\nb c\n",
}


def write_directory(out: Path, layout: LayoutName) -> Path:
    """A directory of several shards: mixed widths, stacked experts, odd rows, a tokenizer."""
    arrays, specs = _module_tensors(layout)
    random = np.random.default_rng(1)
    for name, (dtype, shape) in FLOATS.items():
        specs.append(TensorSpec(name, dtype, shape))
        ordinary = random.normal(1, 0.1, shape).astype(np.float16)
        arrays[name] = ordinary if dtype == "F16" else ordinary.view(np.uint16)
    described = {
        path: QuantizedModule(bits, group_size, path.rpartition(".")[2])
        for path, _, bits, group_size, _ in MODULES
    }
    with open_writer(out, specs, layout=LAYOUTS[layout], shard_bytes=SHARD_BYTES) as writer:
        for name, data in arrays.items():
            writer.write_tensor(name, data)
        config: dict[str, Any] = dict(CONFIG)
        if layout == "mlx":
            config["quantization"] = quantization_config(described)
        writer.write_json("config.json", config)
        provenance = Provenance(
            "toy", "BF16", None, "toy", "JANG_4M", "rtn", 4.5, 40_000, "jang-format"
        )
        content = manifest(provenance, described, writer.weight_bytes)
        if layout == "blocks":
            content["format_version"] = BLOCK_LAYOUT.version
            content["quantization"]["block_size"] = 64
            widths = {width for *_, widths in MODULES for width in widths}
            content["quantization"]["bit_widths_used"] = sorted(widths)
        writer.write_json(MANIFEST_FILE, content)
        for name, text in OTHER_FILES.items():
            writer.write_file(name, text.encode())
    return out


def _module_tensors(layout: LayoutName) -> tuple[dict[str, Any], list[TensorSpec]]:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    specs: list[TensorSpec] = []
    for path, shape, bits, group_size, widths in MODULES:
        size = group_size if layout == "mlx" else 64
        by_group = (*shape[:-1], -(-shape[-1] // size))
        scales = random.normal(0, 0.01, by_group).astype(np.float32)
        offsets = random.uniform(0.5, 3, by_group).astype(np.float32)
        if layout == "mlx":
            codes = random.integers(0, 2**bits, shape, dtype=np.uint8)
            dtype = "BF16" if path == "lm_head" else "F16"
            parts = mlx_arrays(assemble(codes, scales, offsets, bits, dtype))
            specs += mlx_specs(path, shape, bits, size, dtype)
        else:
            bit_map = random.choice(np.array(widths, dtype=np.uint8), by_group)
            columns = np.repeat(bit_map, size, axis=-1)[..., : shape[-1]]
            codes = random.integers(0, 256, shape, dtype=np.uint8)
            codes &= (2**columns - 1).astype(np.uint8)
            tensor = assemble_blocks(codes, scales, offsets, bit_map)
            parts = block_arrays(tensor)
            specs += block_specs(path, shape, tensor.packed.nbytes)
        arrays |= {f"{path}.{part}": data for part, data in parts.items()}
    return arrays, specs


def remove_digests(directory: Path) -> Path:
    """Make it a directory that never had digests."""
    (directory / DIGESTS_FILE).unlink(missing_ok=True)
    if (directory / MANIFEST_FILE).exists():
        edit_json(directory / MANIFEST_FILE, lambda content: content.pop("digests", None))
    return directory


def edit_json(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Parse, change and write anew, as `open_writer` would."""
    content = json.loads(file.read_bytes())
    edit(content)
    replace(file, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def replace(file: Path, content: bytes) -> None:
    """Write a file in place of another, which may be linked from elsewhere."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


# What follows damages a directory in one way and says how; None where it is not possible.


def flip_bit(directory: Path, random: Random) -> str | None:
    """Anywhere in any file."""
    file = random.choice(_files(directory))
    content = bytearray(file.read_bytes())
    if not content:
        return None
    place, bit = random.randrange(len(content)), random.randrange(8)
    content[place] ^= 1 << bit
    replace(file, bytes(content))
    return f"{file.name}: bit {bit} of byte {place}"


def truncate(directory: Path, random: Random) -> str | None:
    """By a few bytes, or to any length."""
    file = random.choice(_files(directory))
    content = file.read_bytes()
    if not content:
        return None
    most = random.choice([1, 16, len(content)])
    length = len(content) - random.randint(1, min(most, len(content)))
    replace(file, content[:length])
    return f"{file.name}: {length} of {len(content)} bytes"


def append(directory: Path, random: Random) -> str | None:
    """Append one byte."""
    file, byte = random.choice(_files(directory)), random.choice([0, 10, random.randrange(256)])
    replace(file, file.read_bytes() + bytes([byte]))
    return f"{file.name}: byte {byte} at the end"


def delete(directory: Path, random: Random) -> str | None:
    """Delete a file."""
    file = random.choice(_files(directory))
    file.unlink()
    return file.name


def swap_shards(directory: Path, random: Random) -> str | None:
    """Give two weight files each other's names."""
    shards = _shards(directory)
    if len(shards) < 2:
        return None
    one, other = random.sample(shards, 2)
    contents = one.read_bytes(), other.read_bytes()
    if contents[0] == contents[1]:
        return None
    replace(other, contents[0])
    replace(one, contents[1])
    return f"{one.name} and {other.name}"


def duplicate_shard(directory: Path, random: Random) -> str | None:
    """Leave a copy of a weight file under a name that stock loaders read too."""
    shard = random.choice(_shards(directory))
    stem = random.choice(["model", "model-old", "model-00009-of-00009", "model.backup"])
    ends = ["", ".jang"] if shard.name.endswith(".jang.safetensors") else [""]
    copy = directory / f"{stem}{random.choice(ends)}.safetensors"
    if copy.exists():
        return None
    copy.write_bytes(shard.read_bytes())
    return f"{shard.name} as {copy.name}"


def swap_tensors(directory: Path, random: Random) -> str | None:
    """Swap the bytes of two tensors that look alike."""
    tensors = list(read_directory(directory).tensors.values())
    one = random.choice(tensors)
    content = _bytes_of(one)
    others = [
        other
        for other in tensors
        if (other.spec.dtype, other.spec.shape) == (one.spec.dtype, one.spec.shape)
        and _bytes_of(other) != content
    ]
    if not others:
        return None
    other = random.choice(others)
    for target, data in ((one, _bytes_of(other)), (other, content)):
        whole = bytearray(target.file.read_bytes())
        whole[target.offset : target.offset + len(data)] = data
        replace(target.file, bytes(whole))
    return f"{one.spec.name} and {other.spec.name}"


def edit_header(directory: Path, random: Random) -> str | None:
    """Change what a weight file says, and keep its length."""
    file = random.choice(_shards(directory))
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    edit = random.choice([_rename_tensor, _change_dtype, _change_shape, _swap_entries, _reorder])
    what = edit(header, random)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    if what is None or len(text) != length or text == content[8 : 8 + length]:
        return None
    replace(file, content[:8] + text + content[8 + length :])
    return f"{file.name}: {what}"


def _rename_tensor(header: dict[str, Any], random: Random) -> str | None:
    name = random.choice(list(header))
    place = random.randrange(len(name))
    renamed = name[:place] + random.choice("abcxyz_.") + name[place + 1 :]
    if renamed in header:
        return None
    header[renamed] = header.pop(name)
    return f"{name} is {renamed}"


def _change_dtype(header: dict[str, Any], random: Random) -> str | None:
    name = random.choice(_entries(header))
    dtype = random.choice(["F16", "I16", "U16", "U32", "I32", "F32", "I64", "U64", "U8", "I8"])
    header[name]["dtype"] = dtype
    return f"{name} is {dtype}"


def _change_shape(header: dict[str, Any], random: Random) -> str | None:
    name = random.choice(_entries(header))
    shape = header[name]["shape"]
    if random.random() < 0.5:
        random.shuffle(shape)
    else:
        shape[random.randrange(len(shape))] += random.choice([-1, 1])
    return f"{name} has {shape}"


def _swap_entries(header: dict[str, Any], random: Random) -> str | None:
    one, other = random.sample(_entries(header), 2)
    header[one], header[other] = header[other], header[one]
    return f"{one} and {other}"


def _reorder(header: dict[str, Any], random: Random) -> str | None:
    name = random.choice(list(header))
    header[name] = header.pop(name)
    return f"{name} comes last"


def edit_description(*names: str) -> "Mutation":
    """A mutation that changes one random value or key of the JSON file with one of these names."""

    def edit(directory: Path, random: Random) -> str | None:
        file = next((directory / name for name in names if (directory / name).exists()), None)
        if file is None:
            return None
        before = json.loads(file.read_bytes())
        said: list[str | None] = []
        edit_json(file, lambda content: said.append(_edit(content, random)))
        after = json.loads(file.read_bytes())
        if json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True):
            return None
        return f"{file.name}: {said[0]}"

    return edit


def _edit(content: dict[str, Any], random: Random) -> str:
    """Change a node of the tree, one as likely as another."""
    nodes = list(_nodes(content))
    if not nodes:
        content["surplus"] = 1
        return "add surplus"
    *parents, key = random.choice(nodes)
    holder: Any = content
    for parent in parents:
        holder = holder[parent]
    where = ".".join(map(str, (*parents, key)))
    action = random.choice(["value", "value", "type", "delete", "rename", "add", "swap"])
    if action == "value":
        holder[key] = _another(holder[key], random)
    elif action == "type":
        holder[key] = random.choice([None, True, 7, -1.5, "x", [], {}, ["x"], {"x": 1}])
    elif action == "delete":
        del holder[key]
    elif action == "swap":
        other = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
        where += f" and {other}"
    elif isinstance(holder, list):
        holder.append(_another(holder[key], random))
    else:
        changed = _another(str(key), random)
        holder[changed] = holder.pop(key) if action == "rename" else holder[key]
        where += f" as {changed}"
    return f"{action} {where}"


def _nodes(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, child in items:
        yield (*above, key)
        if isinstance(child, (dict, list)):
            yield from _nodes(child, (*above, key))


def _another(value: Any, random: Random) -> Any:
    """A value of the same type, near to it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + random.choice([-1, 1, 2])
    if isinstance(value, str):
        place = random.randrange(len(value) + 1)
        cut = random.choice([0, 1])
        return value[:place] + random.choice("abc019._/ é") + value[place + cut :]
    if isinstance(value, dict):
        return {**value, "surplus": 1}
    return [*value, 0] if isinstance(value, list) else 0


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def _shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def _entries(header: Mapping[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def _bytes_of(tensor: StoredTensor) -> bytes:
    return tensor.map().tobytes()


Mutation = Callable[[Path, Random], str | None]
MUTATIONS: Mapping[str, Mutation] = {
    "bit flipped": flip_bit,
    "file truncated": truncate,
    "byte appended": append,
    "file deleted": delete,
    "shards swapped": swap_shards,
    "shard duplicated": duplicate_shard,
    "tensors swapped": swap_tensors,
    "header edited": edit_header,
    "config edited": edit_description("config.json"),
    "manifest edited": edit_description(MANIFEST_FILE),
    "index edited": edit_description(MLX_LAYOUT.index, BLOCK_LAYOUT.index),
    "digests edited": edit_description(DIGESTS_FILE),
}


# Why a change of the digests may not matter; everything else does.
HARMLESS = (
    "white space in the digests",
    "a file that others read is not listed, as one that is added later; a warning names it",
)


@dataclass(frozen=True)
class Case:
    """What was done to a directory, and what validation says.

    Attributes:
        kind: Key of `MUTATIONS`.
        what: What was done, for people.
        harmless: Why it does not matter; None where it does.
        validation: What was found.
    """

    kind: str
    what: str
    harmless: str | None
    validation: Validation

    @property
    def missed(self) -> bool:
        """Whether it matters and was not found."""
        return self.validation.valid and self.harmless is None


def run_cases(sound: Path, seed: int, count: int) -> Iterator[Case]:
    """Damage a copy of a directory, each time anew, until `count` times it matters."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as holder:
        original, work = Path(holder) / "original", Path(holder) / "work"
        shutil.copytree(sound, original)
        while count:
            shutil.copytree(original, work, copy_function=os.link)
            kind = random.choice(list(MUTATIONS))
            what = MUTATIONS[kind](work, random)
            if what is not None:
                harmless = _harmless(original, work)
                count -= harmless is None
                try:
                    validation = validate(work)
                except BaseException:
                    print(f"validate raised: {kind}: {what}", file=sys.stderr)
                    raise
                yield Case(kind, what, harmless, validation)
            shutil.rmtree(work)


def _harmless(original: Path, work: Path) -> str | None:
    """Why a change of the digests does not matter; no digest covers them themselves."""
    before, after = original / DIGESTS_FILE, work / DIGESTS_FILE
    if not before.exists() or not after.exists() or before.read_bytes() == after.read_bytes():
        return None
    expected = json.loads(before.read_bytes())
    try:
        found = json.loads(after.read_bytes())
    except ValueError:
        return None
    if found == expected:
        return HARMLESS[0]
    described = {"config.json", MANIFEST_FILE, MLX_LAYOUT.index, BLOCK_LAYOUT.index}
    for name in expected["files"].keys() - described:
        less = {key: value for key, value in expected["files"].items() if key != name}
        if found == {**expected, "files": less}:
            return HARMLESS[1]
    return None


def report(cases: list[Case], title: str) -> int:
    """Print the counts by kind; returns how many were missed."""
    print(f"{title}\n  {'':16} {'cases':>6} {'matter':>7} {'found':>6} {'missed':>7}")
    for kind in [*MUTATIONS, "all"]:
        chosen = [case for case in cases if kind in (case.kind, "all")]
        matter = sum(case.harmless is None for case in chosen)
        missed = sum(case.missed for case in chosen)
        if chosen:
            counts = f"{len(chosen):6} {matter:7} {matter - missed:6} {missed:7}"
            print(f"  {kind:16} {counts}")
    for reason, times in Counter(case.harmless for case in cases if case.harmless).items():
        print(f"  does not matter, {times} times: {reason}")
    return sum(case.missed for case in cases)


def list_missed(cases: list[Case]) -> None:
    """Print what was done and not found."""
    for case in cases:
        if case.missed:
            print(f"  not found: {case.kind}: {case.what}")


def run_directory(sound: Path, arguments: argparse.Namespace) -> int:
    """All cases on a directory, with its digests and without; returns how many were missed."""
    missed = 0
    if (sound / DIGESTS_FILE).exists():
        cases = list(run_cases(sound, arguments.seed, arguments.cases))
        missed = report(cases, f"{sound.name}, with digests")
        list_missed(cases)
    with tempfile.TemporaryDirectory() as holder:
        bare = remove_digests(Path(shutil.copytree(sound, Path(holder) / "bare")))
        cases = list(run_cases(bare, arguments.seed, arguments.cases))
    lost = report(cases, f"{sound.name}, without digests (for information)")
    print(f"  found by the rules alone: {1 - lost / len(cases):.1%}")
    if arguments.verbose:
        list_missed(cases)
    return missed


def main() -> int:
    """Run the cases and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--cases", type=int, default=1000, help="that matter, per directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="list what the rules do not find")
    arguments = parser.parse_args()
    if arguments.directory:
        if not validate(arguments.directory).valid:
            parser.error(f"{arguments.directory}: expected a valid directory")
        return 1 if run_directory(arguments.directory, arguments) else 0
    with tempfile.TemporaryDirectory() as holder:
        written = [write_directory(Path(holder) / name, name) for name in LAYOUTS]
        return 1 if sum(run_directory(sound, arguments) for sound in written) else 0


if __name__ == "__main__":
    sys.exit(main())
