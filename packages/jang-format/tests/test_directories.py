"""Writing, publishing, reading and summing up a directory in MLX layout."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jang_format import (
    InvalidFileError,
    InvalidTensorError,
    JangFormatError,
    MissingFileError,
    OutputError,
    QuantizedModule,
    TensorSpec,
    UnsupportedVersionError,
    assemble,
    dequantize,
    mlx_arrays,
    mlx_specs,
    open_writer,
    quantization_config,
    read_directory,
    read_header,
    summarize,
)


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    """Three dtypes, odd sizes and names out of order, so that alignment and sorting matter."""
    random = np.random.default_rng(0)
    return {
        "z.weight": random.integers(0, 2**32, (4, 12), dtype=np.uint32),
        "z.scales": random.normal(size=(4, 3)).astype(np.float16),
        "z.biases": random.normal(size=(4, 3)).astype(np.float16),
        "norm.weight": random.normal(size=7).astype(np.float16),
        "a.weight": random.normal(size=(3, 5)).astype(np.float32),
        "empty.weight": np.zeros((0, 4), dtype=np.float16),
    }


def specs_of(arrays: dict[str, np.ndarray[Any, Any]]) -> list[TensorSpec]:
    names = {"uint32": "U32", "float16": "F16", "float32": "F32"}
    return [TensorSpec(name, names[str(a.dtype)], a.shape) for name, a in arrays.items()]


def write(out: Path, shard_bytes: int = 10**9) -> int:
    arrays = tensors()
    with open_writer(out, specs_of(arrays), shard_bytes=shard_bytes) as writer:
        for name, array in arrays.items():
            writer.write_tensor(name, array)
        modules = {"z": QuantizedModule(bits=4, group_size=32, role="mlp")}
        writer.write_json("config.json", {"quantization": quantization_config(modules)})
        return writer.weight_bytes


def test_a_weight_file_has_the_very_bytes_that_the_safetensors_library_writes(
    tmp_path: Path,
) -> None:
    predicted = write(tmp_path / "out")
    written = (tmp_path / "out" / "model-00001-of-00001.safetensors").read_bytes()
    save_file(tensors(), tmp_path / "library", metadata={"format": "mlx"})
    assert written == (tmp_path / "library").read_bytes()
    assert predicted == len(written)


def test_shards_hold_whole_modules_and_the_index_names_each_tensor(tmp_path: Path) -> None:
    write(tmp_path / "out", shard_bytes=100)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in (tmp_path / "out").glob("*.safetensors")}
    assert len(shards) > 1
    assert index["weight_map"] == {n: shard for shard, held in shards.items() for n in held}
    assert len({index["weight_map"][f"z.{part}"] for part in ("weight", "scales", "biases")}) == 1
    opened = read_directory(tmp_path / "out")
    for name, array in tensors().items():
        np.testing.assert_array_equal(opened.tensors[name].map(), array)


def test_nothing_stands_under_the_name_when_the_writing_fails(tmp_path: Path) -> None:
    arrays = tensors()
    with (
        pytest.raises(KeyboardInterrupt),
        open_writer(tmp_path / "out", specs_of(arrays)) as writer,
    ):
        writer.write_tensor("a.weight", arrays["a.weight"])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(InvalidTensorError, match="announced but not written"),
        open_writer(tmp_path / "out", specs_of(arrays)) as writer,
    ):
        writer.write_tensor("a.weight", arrays["a.weight"])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_directory_under_the_name(tmp_path: Path) -> None:
    program = (
        "import os, signal, numpy as np\n"
        "from pathlib import Path\n"
        "from jang_format import TensorSpec, open_writer\n"
        f"out = Path({str(tmp_path / 'out')!r})\n"
        "with open_writer(out, [TensorSpec('a.weight', 'F32', (4,))]) as writer:\n"
        "    writer.write_tensor('a.weight', np.zeros(4, dtype=np.float32))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out")
    assert summarize(read_directory(tmp_path / "out")).parameters > 0


def test_what_is_there_already_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with (
        pytest.raises(OutputError, match="exists already"),
        open_writer(tmp_path / "out", specs_of(tensors())),
    ):
        pytest.fail("the work began")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be made"):
        write(tmp_path / "file" / "out")


def test_written_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()} == {0o644}


def test_a_tensor_comes_as_announced_and_once(tmp_path: Path) -> None:
    arrays = tensors()
    with (
        pytest.raises(InvalidTensorError, match="announced F32"),
        open_writer(tmp_path / "out", specs_of(arrays)) as writer,
    ):
        writer.write_tensor("a.weight", arrays["a.weight"].astype(np.float16))
    with (
        pytest.raises(InvalidTensorError, match="a.weight: expected each announced tensor once"),
        open_writer(tmp_path / "out", specs_of(arrays)) as writer,
    ):
        writer.write_tensor("a.weight", arrays["a.weight"])
        writer.write_tensor("a.weight", arrays["a.weight"])
    with (
        pytest.raises(OutputError, match="without a directory"),
        open_writer(tmp_path / "out", []) as writer,
    ):
        writer.write_file("../evil", b"")


WRONG = {"bits": 4, "group_size": 32}


def quantized_directory(out: Path) -> np.ndarray[Any, Any]:
    """A directory with one 3-bit module in groups of 32; returns its values."""
    random = np.random.default_rng(1)
    codes = random.integers(0, 8, (4, 64), dtype=np.uint8)
    floats = random.normal(size=(2, 4, 2)).astype(np.float32)
    tensor = assemble(codes, floats[0], floats[1], 3, "F16")
    specs = [*mlx_specs("m", (4, 64), 3, 32, "F16"), TensorSpec("norm.weight", "F16", (64,))]
    with open_writer(out, specs) as writer:
        for part, data in mlx_arrays(tensor).items():
            writer.write_tensor(f"m.{part}", data)
        writer.write_tensor("norm.weight", np.ones(64, dtype=np.float16))
        modules = {"m": QuantizedModule(bits=3, group_size=32, role="mlp")}
        config = {"model_type": "toy", "quantization": quantization_config(modules)}
        writer.write_json("config.json", config)
    return dequantize(tensor)


def test_a_directory_reads_back_and_counts_every_bit(tmp_path: Path) -> None:
    values = quantized_directory(tmp_path / "out")
    opened = read_directory(tmp_path / "out")
    np.testing.assert_array_equal(dequantize(opened.quantized("m")), values)
    summary = summarize(opened)
    assert summary.parameters == 4 * 64 + 64
    # Three bits a code, and 32 bits of scale and bias for 32 weights.
    assert summary.bits_per_weight == 4.0


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda d: (d / "config.json").unlink(),
            MissingFileError,
            "config.json: file: found nothing, expected a file",
        ),
        (lambda d: (d / "config.json").write_text("{"), InvalidFileError, "no JSON"),
        (
            lambda d: (d / "config.json").write_text("[]"),
            InvalidFileError,
            "found no JSON .list at the top",
        ),
        (lambda d: (d / "config.json").write_text("{}"), InvalidFileError, "quantization"),
        (
            lambda d: (d / "config.json").write_text(
                json.dumps({"quantization": {"m": WRONG, **WRONG}})
            ),
            InvalidFileError,
            "found 4 bits in groups of 32",
        ),
        (
            lambda d: (d / "jang_config.json").write_text('{"format": "gguf"}'),
            UnsupportedVersionError,
            "found 'gguf', expected 'jang'",
        ),
        (
            lambda d: (d / "jang_config.json").write_text('{"format_version": 3}'),
            UnsupportedVersionError,
            "found 3, expected '1.0' or '2.0'",
        ),
        (
            lambda d: next(d.glob("*.safetensors")).write_bytes(b"\xff" * 64),
            InvalidFileError,
            "header",
        ),
        (
            lambda d: next(d.glob("*.safetensors")).unlink(),
            MissingFileError,
            "found nothing, expected a file, by model.safetensors.index.json",
        ),
    ],
)
def test_a_damaged_directory_is_named_in_one_line(
    tmp_path: Path, damage: Any, error: type[JangFormatError], message: str
) -> None:
    quantized_directory(tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(error, match=message) as caught:
        summarize(read_directory(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "out") in str(caught.value)


def test_every_truncation_of_a_weight_file_is_refused(tmp_path: Path) -> None:
    quantized_directory(tmp_path / "out")
    file = next((tmp_path / "out").glob("*.safetensors"))
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(JangFormatError):
            read_header(file)
