"""Sound directories of every kind that is read, and edits that damage them.

Files are contents by name. An edit is a JSON object, so that a case can be kept; edits are applied
one after the other, and one that does not apply any more does nothing.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from jang_format import (
    BLOCK_LAYOUT,
    MANIFEST_FILE,
    STORAGE,
    Provenance,
    QuantizedModule,
    QuantizedTensor,
    TensorSpec,
    assemble,
    assemble_blocks,
    block_arrays,
    block_specs,
    manifest,
    mlx_arrays,
    mlx_specs,
    open_writer,
    quantization_config,
)


@dataclass(frozen=True)
class Special:
    """What stands in a directory in place of a file: "link" (to `target`), "fifo", "directory"."""

    kind: str
    target: str = ""


Files = dict[str, bytes | Special]

_CONFIG: Final = {
    "model_type": "toy",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_experts": 2,
}
_PROVENANCE: Final = Provenance("toy", "BF16", None, "toy", "JANG_4M", "rtn", 4.5, 640, "tests 0")
_Q_PROJ: Final = "model.layers.0.self_attn.q_proj"
_DOWN_PROJ: Final = "model.layers.0.mlp.down_proj"


def _mlx_tensor(rows: int, columns: int, bits: int, group_size: int, dtype: str) -> QuantizedTensor:
    generator = np.random.default_rng(bits)
    codes = generator.integers(0, 2**bits, (rows, columns), dtype=np.uint8)
    floats = generator.normal(size=(2, rows, columns // group_size)).astype(np.float32)
    return assemble(codes, floats[0], floats[1], bits, dtype)


def _block_tensor(shape: tuple[int, ...], widths: Sequence[int]) -> QuantizedTensor:
    generator = np.random.default_rng(len(shape))
    codes = generator.integers(0, 4, shape, dtype=np.uint8)
    by_block = (*shape[:-1], -(-shape[-1] // 64))
    bit_map = np.resize(np.array(widths, dtype=np.uint8), by_block)
    floats = generator.normal(size=(2, *by_block)).astype(np.float32)
    return assemble_blocks(codes, floats[0], floats[1], bit_map)


def write_mlx(out: Path) -> None:
    """A directory in MLX layout with two modules, two shards, a manifest, index and digests."""
    tensors = {
        _Q_PROJ: _mlx_tensor(4, 64, 3, 32, "F16"),
        "lm_head": _mlx_tensor(3, 64, 8, 64, "F32"),
    }
    roles = {_Q_PROJ: "attention", "lm_head": "head"}
    modules = {
        path: QuantizedModule(tensor.bits or 0, tensor.group_size, roles[path])
        for path, tensor in tensors.items()
    }
    specs = [
        spec
        for path, tensor in tensors.items()
        for spec in mlx_specs(path, tensor.shape, tensor.bits or 0, tensor.group_size, tensor.dtype)
    ]
    others = {"norm.weight": np.ones(64, dtype="<u2"), "empty": np.ones((0, 2), dtype="<u2")}
    specs += [TensorSpec(name, "BF16", array.shape) for name, array in others.items()]
    specs.append(TensorSpec("scalar", "I64", ()))
    with open_writer(out, specs, shard_bytes=300) as writer:
        for path, tensor in tensors.items():
            for part, data in mlx_arrays(tensor).items():
                writer.write_tensor(f"{path}.{part}", data)
        for name, array in others.items():
            writer.write_tensor(name, array)
        writer.write_tensor("scalar", np.array(7))
        config = {**_CONFIG, "quantization": quantization_config(modules)}
        writer.write_json("config.json", config)
        writer.write_json(MANIFEST_FILE, manifest(_PROVENANCE, modules, writer.weight_bytes))


def write_blocks(out: Path) -> None:
    """A directory in block layout: rows that end inside a block, experts, a manifest, digests."""
    tensors = {
        _Q_PROJ: _block_tensor((3, 100), (2, 4, 3)),
        "model.layers.0.switch_mlp.up_proj": _block_tensor((2, 2, 64), (5, 8)),
    }
    specs = [
        spec
        for path, tensor in tensors.items()
        for spec in block_specs(path, tensor.shape, tensor.packed.size)
    ]
    with open_writer(
        out, [*specs, TensorSpec("norm", "F16", (64,))], layout=BLOCK_LAYOUT
    ) as writer:
        for path, tensor in tensors.items():
            for part, data in block_arrays(tensor).items():
                writer.write_tensor(f"{path}.{part}", data)
        writer.write_tensor("norm", np.ones(64, dtype=np.float16))
        writer.write_json("config.json", _CONFIG)
        described = manifest(_PROVENANCE, {}, writer.weight_bytes) | {"format_version": "1.0"}
        writer.write_json(MANIFEST_FILE, described)


def write_old_mlx(out: Path) -> None:
    """As old converters wrote MLX layout: one width for all, and neither manifest nor index."""
    out.mkdir()
    arrays = {
        f"{path}.{part}": data
        for path, bits, columns in ((_Q_PROJ, 4, 64), (_DOWN_PROJ, 2, 96))
        for part, data in mlx_arrays(_mlx_tensor(2, columns, bits, 32, "F16")).items()
    }
    (out / "model.safetensors").write_bytes(save(arrays, metadata={"format": "mlx"}))
    config = {**_CONFIG, "quantization": {"bits": 4, "group_size": 32}}
    (out / "config.json").write_text(json.dumps(config))


def write_old_blocks(out: Path) -> None:
    """As the oldest directories are: biases, one width for a tensor, no shape, another name."""
    out.mkdir()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for path, shape in ((_Q_PROJ, (2, 64)), ("model.layers.0.mlp.experts.gate_proj", (2, 3, 64))):
        parts = block_arrays(_block_tensor(shape, (4,)))
        arrays[f"{path}.qweight"] = parts["qweight"]
        arrays[f"{path}.scales"] = parts["scales"]
        arrays[f"{path}.biases"] = parts["zeros"]
        arrays[f"{path}.bits"] = np.array([4], dtype=np.uint8)
    shard = "model-00001-of-00001.jjqf.safetensors"
    (out / shard).write_bytes(save(arrays))
    (out / "config.json").write_text(json.dumps({"text_config": _CONFIG}))
    described = {"format": "jjqf", "format_version": 1, "quantization": {"block_size": 64}}
    (out / "jjqf_config.json").write_text(json.dumps(described))
    index = {"weight_map": dict.fromkeys(arrays, shard), "metadata": {"total_size": 1}}
    (out / "model.jjqf.index.json").write_text(json.dumps(index))


BASES: Final[Mapping[str, Callable[[Path], None]]] = {
    "mlx": write_mlx,
    "blocks": write_blocks,
    "old mlx": write_old_mlx,
    "old blocks": write_old_blocks,
}


def read_base(name: str, work: Path) -> Files:
    """The files of a sound directory; `work` is written to."""
    directory = work / name
    BASES[name](directory)
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


Edit = dict[str, Any]
Place = list[str | int]
# What comes of taking a document for sound of which earlier edits have made anything.
UNSOUND: Final = (LookupError, ValueError, TypeError, AttributeError, RecursionError)


class Pairs(list[tuple[str, Any]]):
    """A JSON object that may have a key twice."""


@dataclass(frozen=True)
class Text:
    """JSON as it stands, sound or not."""

    text: str


def dump(node: Any) -> str:
    if isinstance(node, Text):
        return node.text
    if isinstance(node, Pairs):
        return f"{{{','.join(f'{json.dumps(key)}:{dump(value)}' for key, value in node)}}}"
    if isinstance(node, list):
        return f"[{','.join(dump(item) for item in node)}]"
    return json.dumps(node)


def is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def load(name: str, content: bytes) -> Any:
    """The document of a JSON file, or of the header of a weight file."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = content[8:end] if is_weights(name) else content
    return json.loads(text, object_pairs_hook=Pairs)


def _store(name: str, document: Any, content: bytes) -> bytes:
    text = dump(document).encode("utf-8", "surrogatepass")
    if not is_weights(name):
        return text
    data = content[8 + int.from_bytes(content[:8], "little") :]
    return len(text).to_bytes(8, "little") + text + data


def _find(document: Any, place: Place) -> tuple[Any, int]:
    """What holds the place, and its position in there."""
    node, position = document, -1
    holder: Any = None
    for step in place:
        holder = node
        if isinstance(node, Pairs):
            position = [key for key, _ in node].index(str(step))
            node = node[position][1]
        elif isinstance(node, list) and isinstance(step, int):
            position, node = step, node[step]
        else:
            raise LookupError
    return holder, position


def _edit_json(files: Files, edit: Edit) -> None:
    content = files[edit["file"]]
    if not isinstance(content, bytes):
        raise LookupError
    document = load(edit["file"], content)
    if not edit["at"]:
        files[edit["file"]] = _store(edit["file"], Text(edit["text"]), content)
        return
    holder, position = _find(document, edit["at"])
    is_object = isinstance(holder, Pairs)
    match edit["edit"]:
        case "set":
            value = Text(edit["text"])
            holder[position] = (holder[position][0], value) if is_object else value
        case "drop":
            del holder[position]
        case "repeat":
            holder.append(holder[position])
        case _ if is_object:
            holder[position] = (edit["key"], holder[position][1])
        case _:
            raise LookupError
    files[edit["file"]] = _store(edit["file"], document, content)


def _splice(files: Files, edit: Edit) -> None:
    content = files[edit["file"]]
    if not isinstance(content, bytes):
        raise LookupError
    at, end = edit["at"], edit["at"] + edit["delete"]
    files[edit["file"]] = content[:at] + bytes.fromhex(edit["insert"]) + content[end:]


def _edit_tensor(files: Files, edit: Edit) -> None:
    """Give a tensor another name, type, shape or data, and keep the file sound around it."""
    name, content = edit["file"], files[edit["file"]]
    if not isinstance(content, bytes):
        raise LookupError
    header: dict[str, Any] = json.loads(dump(load(name, content)))
    data = content[8 + int.from_bytes(content[:8], "little") :]
    metadata = {key: header.pop(key) for key in ("__metadata__",) if key in header}
    header = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
    parts = {key: data[slice(*entry["data_offsets"])] for key, entry in header.items()}
    old, new = edit["name"], edit["to"]
    if old is not None:
        del header[old], parts[old]
    if new is not None:
        nbytes = math.prod(edit["shape"]) * STORAGE[edit["dtype"]].itemsize
        pattern = bytes.fromhex(edit["data"]) or b"\0"
        if not 0 <= nbytes <= 100_000:
            raise LookupError
        header[new] = {"dtype": edit["dtype"], "shape": edit["shape"]}
        parts[new] = (pattern * (nbytes // len(pattern) + 1))[:nbytes]
    end = 0
    for key, part in parts.items():
        header[key]["data_offsets"] = [end, end + len(part)]
        end += len(part)
    text = json.dumps(metadata | header).encode()
    files[name] = len(text).to_bytes(8, "little") + text + b"".join(parts.values())
    for index, listed in list(files.items()):
        if index.endswith(".index.json") and isinstance(listed, bytes):
            document = json.loads(listed)
            document["weight_map"].pop(old, None)
            document["weight_map"] |= {new: name} if new is not None else {}
            files[index] = json.dumps(document).encode()


def _edit_files(files: Files, edit: Edit) -> None:
    name = edit["file"]
    match edit["edit"]:
        case "remove":
            del files[name]
        case "rename":
            files[edit["to"]] = files.pop(name)
        case "copy":
            files[edit["to"]] = files[name]
        case "swap":
            files[name], files[edit["to"]] = files[edit["to"]], files[name]
        case kind:
            files[name] = Special(kind, edit.get("to", ""))


def apply(files: Files, edits: Sequence[Edit]) -> Files:
    """The files after the edits."""
    edited = dict(files)
    for edit in edits:
        with contextlib.suppress(*UNSOUND):
            if edit["edit"] == "splice":
                _splice(edited, edit)
            elif edit["edit"] == "tensor":
                _edit_tensor(edited, edit)
            elif edit["edit"] in ("set", "drop", "repeat", "key"):
                _edit_json(edited, edit)
            else:
                _edit_files(edited, edit)
    return edited


def put(path: Path, content: bytes | Special, outside: Path) -> None:
    """Make one file, or what stands in its place; `outside` is a directory that links lead to."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content.kind == "link":
        path.symlink_to(content.target.format(file=path.name, outside=outside))
    elif content.kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
