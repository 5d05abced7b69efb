"""Many tensors, large files, little memory. How fast it is, benchmarks/format_speed.py says."""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jang_format import (
    BLOCK_LAYOUT,
    MLX_LAYOUT,
    TensorSpec,
    assemble,
    block_specs,
    convert_layout,
    mlx_arrays,
    mlx_specs,
    open_writer,
    read_directory,
    summarize,
    validate,
)
from jang_format._safetensors import lay_out

MODULES = 3_334


def bytes_read_by(work: Callable[[], object]) -> int:
    """Bytes that the process asked to read meanwhile; memory maps do not count."""

    def so_far() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    before = so_far()
    work()
    return so_far() - before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the bytes that a process reads")
def test_opening_many_gigabytes_of_ten_thousand_tensors_reads_the_header_alone(
    tmp_path: Path,
) -> None:
    specs = [
        spec for n in range(MODULES) for spec in mlx_specs(f"m.{n}", (1024, 4096), 4, 64, "F16")
    ]
    layout = lay_out(specs, MLX_LAYOUT.metadata)
    with (tmp_path / "model-00001-of-00001.safetensors").open("wb") as stream:
        stream.write(layout.header)
        stream.truncate(layout.nbytes)
    config = '{"quantization": {"bits": 4, "group_size": 64}}'
    (tmp_path / "config.json").write_text(config)
    opened = read_directory(tmp_path)
    assert len(opened.tensors) > 10_000
    assert opened.weight_bytes > 7_000_000_000
    read = bytes_read_by(lambda: summarize(read_directory(tmp_path)))
    # Python reads its own files too, a few of them.
    assert read < len(layout.header) + 200_000


def test_ten_thousand_tensors_go_into_one_file_and_into_the_other_layout(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 4, (2, 64), dtype=np.uint8)
    ones = np.ones((2, 1), dtype=np.float32)
    arrays = mlx_arrays(assemble(codes, ones, ones, 2, "F16"))
    specs = [spec for n in range(MODULES) for spec in mlx_specs(f"m.{n}", (2, 64), 2, 64, "F16")]
    with open_writer(tmp_path / "mlx", specs) as writer:
        for n in range(MODULES):
            for part, data in arrays.items():
                writer.write_tensor(f"m.{n}.{part}", data)
        entry = {"bits": 2, "group_size": 64, "mode": "affine"}
        entries = {f"m.{n}": entry for n in range(MODULES)}
        writer.write_json("config.json", {"quantization": {**entry, **entries}})
        writer.write_json("jang_config.json", {"format": "jang", "format_version": "2.0"})
    assert len(list((tmp_path / "mlx").glob("*.safetensors"))) == 1
    assert validate(tmp_path / "mlx").problems == ()
    convert_layout(read_directory(tmp_path / "mlx"), tmp_path / "blocks", BLOCK_LAYOUT)
    assert len(read_directory(tmp_path / "blocks").tensors) == 6 * MODULES


def large_arrays(count: int, nbytes: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    for number in range(count):
        yield np.full(nbytes, number, dtype=np.uint8)


def test_writing_and_converting_take_the_memory_of_one_tensor(tmp_path: Path) -> None:
    size = 1 << 22
    specs = [TensorSpec(f"t.{n}", "U8", (size,)) for n in range(24)]
    tracemalloc.start()
    with open_writer(tmp_path / "out", specs, shard_bytes=size * 5) as writer:
        for spec, array in zip(specs, large_arrays(24, size), strict=True):
            writer.write_tensor(spec.name, array)
        writer.write_json("config.json", {})
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    convert_layout(read_directory(tmp_path / "out"), tmp_path / "copy", MLX_LAYOUT)
    converted = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The next array is made while the last is still there.
    assert written < 3 * size
    assert converted < 2 * size


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    specs = block_specs("m", (4, 64), 4 * 16)
    random = np.random.default_rng(0)
    arrays = {
        "m.qweight": random.integers(0, 256, 64, dtype=np.uint8),
        "m.scales": random.normal(size=4).astype(np.float16),
        "m.zeros": random.normal(size=4).astype(np.float16),
        "m.bit_map": np.full(4, 2, dtype=np.uint8),
        "m.block_offsets": np.arange(4, dtype=np.uint32) * 16,
        "m.shape": np.array([4, 64], dtype=np.int64),
    }
    contents: list[dict[str, bytes]] = []
    for out, order in (("a", sorted(arrays)), ("b", sorted(arrays, reverse=True))):
        with open_writer(tmp_path / out, specs, layout=BLOCK_LAYOUT) as writer:
            for name in order:
                writer.write_tensor(name, arrays[name])
            writer.write_json("config.json", {})
        contents.append({file.name: file.read_bytes() for file in (tmp_path / out).iterdir()})
    assert contents[0] == contents[1]
