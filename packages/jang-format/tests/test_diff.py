"""What `diff` says of two directories."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jang_format import (
    BLOCK_LAYOUT,
    ModelDirectory,
    QuantizedModule,
    QuantizedTensor,
    TensorSpec,
    assemble,
    assemble_blocks,
    block_arrays,
    block_specs,
    dequantize,
    encode_floats,
    mlx_arrays,
    mlx_specs,
    open_writer,
    quantization_config,
    read_directory,
)
from jang_format import _diff as module_under_test
from jang_format._diff import Change, DiffProgress, OnlyIn, diff

Floats = Mapping[str, np.ndarray[Any, Any]]


def quantized(
    shape: tuple[int, ...] = (6, 128), bits: int = 3, group_size: int = 32, seed: int = 0
) -> QuantizedTensor:
    random = np.random.default_rng(seed)
    groups = (*shape[:-1], shape[-1] // group_size)
    codes = random.integers(0, 2**bits, shape, dtype=np.uint8)
    floats = random.normal(size=(2, *groups)).astype(np.float32)
    return assemble(codes, floats[0], floats[1], bits, "F16")


def in_blocks(shape: tuple[int, ...] = (2, 3, 100), seed: int = 0) -> QuantizedTensor:
    """A tensor in blocks of several widths, whose rows end inside a block."""
    random = np.random.default_rng(seed)
    blocks = (*shape[:-1], -(-shape[-1] // 64))
    scales = random.normal(size=blocks).astype(np.float32)
    zeros = random.integers(0, 3, blocks).astype(np.float32)
    widths = random.choice(np.array([6, 8], dtype=np.uint8), blocks)
    codes = random.integers(0, 4, shape, dtype=np.uint8)
    return assemble_blocks(codes, scales, zeros, widths)


def write(
    out: Path,
    modules: Mapping[str, QuantizedTensor],
    floats: Floats | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    dtype: str = "BF16",
    shard_bytes: int = 10**9,
) -> ModelDirectory:
    """A directory in the layout that its modules are of; the floats are stored as `dtype`."""
    is_block = any(tensor.zeros is not None for tensor in modules.values())
    floats = {name: encode_floats(values, dtype) for name, values in (floats or {}).items()}
    specs = [TensorSpec(name, dtype, values.shape) for name, values in floats.items()]
    arrays = {path: (block_arrays if is_block else mlx_arrays)(t) for path, t in modules.items()}
    for path, tensor in modules.items():
        if is_block:
            specs += block_specs(path, tensor.shape, tensor.packed.nbytes)
        else:
            specs += mlx_specs(path, tensor.shape, tensor.bits or 0, tensor.group_size, "F16")
    layout = {"layout": BLOCK_LAYOUT} if is_block else {}
    with open_writer(out, specs, shard_bytes=shard_bytes, **layout) as writer:
        for path, parts in arrays.items():
            for part, data in parts.items():
                writer.write_tensor(f"{path}.{part}", data)
        for name, values in floats.items():
            writer.write_tensor(name, values)
        entries = {
            path: QuantizedModule(tensor.bits or 0, tensor.group_size, "mlp")
            for path, tensor in modules.items()
        }
        quantization = {} if is_block else {"quantization": quantization_config(entries)}
        writer.write_json("config.json", {"model_type": "toy", **quantization, **(config or {})})
        writer.write_json("jang_config.json", manifest or {})
        for name, content in (files or {}).items():
            writer.write_file(name, content)
    return read_directory(out)


def distances(a: Any, b: Any) -> tuple[float, float]:
    """Relative RMS and largest difference, in the obvious way."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    norm = np.sqrt((a.astype(np.float64) ** 2).sum())
    return np.sqrt((difference**2).sum()) / norm, np.abs(difference).max()


def test_equal_directories_are_the_same_however_the_tensors_are_spread_over_files(
    tmp_path: Path,
) -> None:
    content = {"m": quantized(), "n": quantized((2, 4, 64), 5, 64)}
    norm = {"norm.weight": np.ones(8, dtype=np.float32)}
    a = write(tmp_path / "a", content, norm, files={"tokenizer.json": b"{}"})
    b = write(tmp_path / "b", content, norm, files={"tokenizer.json": b"{}"}, shard_bytes=1)
    assert len(a.weight_files) != len(b.weight_files)
    told: list[DiffProgress] = []
    difference = diff(a, b, told.append)
    assert difference.same
    assert [module.path for module in difference.modules] == ["m", "n", "norm.weight"]
    assert [(step.done, step.total, step.path) for step in told] == [
        (1, 3, "m"),
        (2, 3, "n"),
        (3, 3, "norm.weight"),
    ]
    assert json.loads(json.dumps(difference.as_dict()))["same"] is True


def with_a_changed_scale(tensor: QuantizedTensor, row: tuple[int, int]) -> QuantizedTensor:
    scales = tensor.scales.copy()
    scales[row][-1] *= 2
    return replace(tensor, scales=scales)


def with_a_changed_code(tensor: QuantizedTensor) -> QuantizedTensor:
    """The first code of the last row."""
    widths = tensor.bit_map.reshape(-1, tensor.scales.shape[-1])
    packed = tensor.packed.copy()
    packed[widths[:-1].sum(dtype=np.int64) * tensor.group_size // 8] ^= 1
    return replace(tensor, packed=packed)


@pytest.mark.parametrize("tensor", [quantized((2, 3, 128), bits=8), in_blocks()])
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: with_a_changed_scale(tensor, (0, 1)),
        lambda tensor: with_a_changed_scale(tensor, (1, 1)),
        with_a_changed_code,
    ],
)
def test_one_changed_number_is_found_in_its_module_with_the_distance_of_the_values(
    tmp_path: Path,
    tensor: QuantizedTensor,
    change: Callable[[QuantizedTensor], QuantizedTensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Four of six rows at a time, of values and about that of bytes: two unequal pieces.
    monkeypatch.setattr(module_under_test, "_CHUNK", tensor.shape[-1] * 4)
    changed = change(tensor)
    a = write(tmp_path / "a", {"m": tensor, "other": tensor})
    b = write(tmp_path / "b", {"m": tensor, "other": changed})
    difference = diff(a, b)
    same, other = difference.modules
    assert (same.identical, same.relative_rms, same.largest) == (True, 0.0, 0.0)
    assert not other.identical
    assert not difference.same
    relative_rms, largest = distances(dequantize(tensor), dequantize(changed))
    assert other.relative_rms == pytest.approx(relative_rms, rel=1e-12)
    assert other.largest == largest > 0


def test_every_change_is_listed_where_it_belongs(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a",
        {"m": quantized(bits=4), "gone": quantized(), "reshaped": quantized()},
        {"norm.weight": np.ones(4, dtype=np.float32), "old.bias": np.ones(2, dtype=np.float32)},
        config={"rope": {"theta": 1, "kinds": ["x", "y"]}, "eps": 1, "name": "z" * 500},
        manifest={"quantization": {"profile": "JANG_4M"}},
        files={"tokenizer.json": b"ab", "README.md": b"a", "a.txt": b"", "same.txt": b"s"},
    )
    b = write(
        tmp_path / "b",
        {"m": quantized(bits=6, group_size=64), "new": quantized(), "reshaped": quantized((3, 64))},
        {"norm.weight": np.full(4, 2, dtype=np.float32), "v.bias": np.ones(2, dtype=np.float32)},
        config={"rope": {"theta": 1.0, "kinds": ["x", "q"]}, "eps": True, "name": "z"},
        manifest={"quantization": {"profile": "JANG_6M"}, "producer": "me"},
        files={"tokenizer.json": b"ac", "README.md": b"ab", "b.txt": b"", "same.txt": b"s"},
    )
    difference = diff(a, b)
    assert difference.about == (Change("profile", "'JANG_4M'", "'JANG_6M'"),)
    config = {change.key: (change.a, change.b) for change in difference.config}
    assert {key: values for key, values in config.items() if "quantization" not in key} == {
        "rope.theta": ("1", "1.0"),
        "rope.kinds[1]": ("'y'", "'q'"),
        "eps": ("1", "true"),
        "name": ("a string of 500 characters", "'z'"),
    }
    assert config["quantization.m.bits"] == ("4", "6")
    assert config["quantization.gone"] == ("an object with 3 keys", None)
    assert difference.manifest == (
        Change("quantization.profile", "'JANG_4M'", "'JANG_6M'"),
        Change("producer", None, "'me'"),
    )
    assert difference.only_in_a == OnlyIn(("gone",), ("old.bias",), ("a.txt",))
    assert difference.only_in_b == OnlyIn(("new",), ("v.bias",), ("b.txt",))
    assert difference.files == ("README.md", "tokenizer.json")
    m, reshaped, norm = difference.modules
    assert (m.path, m.a.bits, m.a.group_size, m.a.dtype) == ("m", 4.0, 32, "F16")
    assert (m.b.bits, m.b.group_size, m.b.shape) == (6.0, 64, (6, 128))
    assert m.relative_rms is not None
    assert (reshaped.a.shape, reshaped.b.shape) == ((6, 128), (3, 64))
    assert (reshaped.identical, reshaped.relative_rms, reshaped.largest) == (False, None, None)
    assert (norm.path, norm.a.bits, norm.a.dtype) == ("norm.weight", None, "BF16")
    assert (norm.relative_rms, norm.largest) == (1.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"eps": 2}},
        {"manifest": {"producer": "me"}},
        {"files": {"tokenizer.json": b"no"}},
        {"files": {"tokenizer.json": b"{}", "more": b""}},
        {"modules": {}},
        {"modules": {"m": quantized(seed=1)}},
        {"floats": {"norm.weight": np.ones(4, dtype=np.float32)}},
        {"floats": {}},
        # The same bytes.
        {"dtype": "F16"},
    ],
)
def test_any_one_change_makes_directories_differ_in_both_directions(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    content: dict[str, Any] = {
        "modules": {"m": quantized()},
        "floats": {"norm.weight": np.zeros(4, dtype=np.float32)},
        # Where the modules are written too, and so would be a second change.
        "config": {"quantization": {"m": {"bits": 3, "group_size": 32}}},
        "files": {"tokenizer.json": b"{}"},
    }
    changes = {
        key: {**content["config"], **c} if key == "config" else c for key, c in changes.items()
    }
    a = write(tmp_path / "a", **content)
    b = write(tmp_path / "b", **(content | changes))
    assert not diff(a, b).same
    assert not diff(b, a).same


def test_equal_values_in_both_layouts_have_no_distance(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    codes = random.integers(0, 16, (4, 128), dtype=np.uint8)
    # Powers of two, so that the bias -scale * zero is exact.
    scales = (2.0 ** random.integers(-3, 3, (4, 2))).astype(np.float32)
    zeros = random.integers(0, 16, (4, 2)).astype(np.float32)
    widths = np.full((4, 2), 4, dtype=np.uint8)
    a = write(tmp_path / "a", {"m": assemble(codes, scales, -scales * zeros, 4, "F16")})
    b = write(tmp_path / "b", {"m": assemble_blocks(codes, scales, zeros, widths)})
    difference = diff(a, b)
    assert difference.about == (Change("layout", "'mlx'", "'blocks'"),)
    assert difference.only_in_a == difference.only_in_b == OnlyIn((), (), ())
    (module,) = difference.modules
    assert (module.identical, module.relative_rms, module.largest) == (False, 0.0, 0.0)


def test_a_quantized_module_is_compared_with_its_unquantized_weight(tmp_path: Path) -> None:
    tensor = quantized()
    values = np.random.default_rng(5).integers(-9, 9, tensor.shape).astype(np.float32)
    a = write(tmp_path / "a", {}, {"m.weight": values, "m.bias": values[0]})
    b = write(tmp_path / "b", {"m": tensor}, {"m.bias": values[0]})
    difference = diff(a, b)
    assert difference.only_in_a == difference.only_in_b == OnlyIn((), (), ())
    (module,) = (module for module in difference.modules if module.path != "m.bias")
    assert (module.path, module.a.bits, module.b.bits) == ("m", None, 3.0)
    relative_rms, largest = distances(values, dequantize(tensor))
    assert module.relative_rms == pytest.approx(relative_rms, rel=1e-12)
    assert module.largest == largest


def test_a_distance_that_is_no_number_is_none_so_that_json_stays_json(tmp_path: Path) -> None:
    one = np.ones((2, 3), dtype=np.float32)
    infinite = np.array([[np.inf, 1]], dtype=np.float32)
    a = write(tmp_path / "a", {}, {"x": infinite, "y": one * 0, "z": one * np.nan})
    b = write(tmp_path / "b", {}, {"x": infinite * 2, "y": one * 3, "z": one * np.nan})
    difference = diff(a, b)
    x, y, z = difference.modules
    assert (x.identical, x.relative_rms, x.largest) == (False, None, None)
    assert (y.identical, y.relative_rms, y.largest) == (False, None, 3.0)
    assert z.identical
    json.dumps(difference.as_dict(), allow_nan=False)
