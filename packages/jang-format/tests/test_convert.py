"""From one layout into the other: which bytes stay, how far values move, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jang_format import (
    BIT_WIDTHS,
    BLOCK_LAYOUT,
    MLX_LAYOUT,
    InvalidTensorError,
    OutputError,
    QuantizedModule,
    QuantizedTensor,
    TensorSpec,
    assemble,
    assemble_blocks,
    block_arrays,
    block_specs,
    convert_layout,
    dequantize,
    mlx_arrays,
    mlx_specs,
    open_writer,
    quantization_config,
    read_directory,
    validate,
)
from jang_format._relayout import mlx_form, to_blocks, to_mlx
from jang_format.cli import app


def mlx_tensor(bits: int, group_size: int, dtype: str, shape: tuple[int, ...]) -> QuantizedTensor:
    random = np.random.default_rng(bits)
    codes = random.integers(0, 2**bits, shape, dtype=np.uint8)
    by_group = (*shape[:-1], shape[-1] // group_size)
    scales = random.normal(0, 0.01, by_group).astype(np.float32)
    biases = random.normal(0, 0.1, by_group).astype(np.float32)
    return assemble(codes, scales, biases, bits, dtype)


def block_tensor(shape: tuple[int, ...], widths: tuple[int, ...]) -> QuantizedTensor:
    random = np.random.default_rng(len(widths))
    by_block = (*shape[:-1], -(-shape[-1] // 64))
    bit_map = random.choice(np.array(widths, dtype=np.uint8), by_block)
    columns = np.repeat(bit_map, 64, axis=-1)[..., : shape[-1]]
    codes = random.integers(0, 256, shape, dtype=np.uint8) & (2**columns - 1).astype(np.uint8)
    scales = random.normal(0, 0.01, by_block).astype(np.float32)
    zeros = random.uniform(0, 2**bit_map, by_block).astype(np.float32)
    return assemble_blocks(codes, scales, zeros, bit_map)


def write_mlx(out: Path, modules: dict[str, QuantizedTensor]) -> Path:
    specs = [TensorSpec("norm.weight", "F16", (8,))]
    described: dict[str, QuantizedModule] = {}
    for path, tensor in modules.items():
        bits = tensor.bits
        assert bits is not None
        specs += mlx_specs(path, tensor.shape, bits, tensor.group_size, tensor.dtype)
        described[path] = QuantizedModule(bits, tensor.group_size, "mlp")
    with open_writer(out, specs) as writer:
        for path, tensor in modules.items():
            for part, data in mlx_arrays(tensor).items():
                writer.write_tensor(f"{path}.{part}", data)
        writer.write_tensor("norm.weight", np.arange(8, dtype=np.float16))
        config = {"model_type": "toy", "quantization": quantization_config(described)}
        writer.write_json("config.json", config)
        manifest = {"format": "jang", "format_version": "2.0", "roles": dict.fromkeys(modules, "x")}
        writer.write_json("jang_config.json", manifest)
        writer.write_file("tokenizer.json", b'{"a": 1}')
    return out


def write_blocks(out: Path, modules: dict[str, QuantizedTensor]) -> Path:
    specs = [
        spec
        for path, tensor in modules.items()
        for spec in block_specs(path, tensor.shape, tensor.packed.nbytes)
    ]
    with open_writer(out, specs, layout=BLOCK_LAYOUT) as writer:
        for path, tensor in modules.items():
            for part, data in block_arrays(tensor).items():
                writer.write_tensor(f"{path}.{part}", data)
        writer.write_json("config.json", {"model_type": "toy"})
        writer.write_json("jang_config.json", {"format": "jang", "format_version": "1.0"})
    return out


def test_one_width_goes_to_mlx_layout_by_its_bytes_and_back(tmp_path: Path) -> None:
    tensors = {f"m{bits}": block_tensor((2, 3, 128), (bits,)) for bits in BIT_WIDTHS}
    source = read_directory(write_blocks(tmp_path / "blocks", tensors))
    conversion = convert_layout(source, tmp_path / "mlx", MLX_LAYOUT)
    made = read_directory(tmp_path / "mlx")
    assert conversion.requantized == ()
    for path, tensor in tensors.items():
        opened = made.quantized(path)
        assert opened.packed.tobytes() == tensor.packed.tobytes()
        assert opened.scales.tobytes() == tensor.scales.tobytes()
        assert opened.dtype == "F16"
    convert_layout(made, tmp_path / "back", BLOCK_LAYOUT)
    for path, tensor in tensors.items():
        again = read_directory(tmp_path / "back").quantized(path)
        assert again.packed.tobytes() == tensor.packed.tobytes()
        assert validate(tmp_path / "back").problems == ()
    assert validate(tmp_path / "mlx").problems == ()


@given(seed=st.integers(0, 2**32), bits=st.sampled_from(BIT_WIDTHS))
def test_a_bias_from_a_zero_is_off_by_at_most_its_rounding_to_f16(seed: int, bits: int) -> None:
    tensor = block_tensor((4, 128), (bits,))
    made = to_mlx(tensor, mlx_form(tensor, requantize=False))
    biases = -tensor.scales.astype(np.float64) * tensor.zeros.astype(np.float64)  # type: ignore[union-attr]
    moved = np.abs(dequantize(made).astype(np.float64) - dequantize(tensor)).reshape(4, 2, 64)
    assert (moved <= np.abs(biases)[..., None] * 2.0**-11 + 1e-6).all()


def test_blocks_of_several_widths_need_to_be_asked_and_then_keep_their_values(
    tmp_path: Path,
) -> None:
    tensors = {"plain": block_tensor((4, 128), (4,)), "mixed": block_tensor((4, 256), (2, 3, 5))}
    source = read_directory(write_blocks(tmp_path / "blocks", tensors))
    with pytest.raises(InvalidTensorError, match=r"mixed: bit_map: found blocks of \[2, 3, 5\]"):
        convert_layout(source, tmp_path / "mlx", MLX_LAYOUT)
    assert not (tmp_path / "mlx").exists()
    conversion = convert_layout(source, tmp_path / "mlx", MLX_LAYOUT, requantize=True)
    assert conversion.requantized == ("mixed",)
    made = read_directory(tmp_path / "mlx").quantized("mixed")
    assert made.bits == 5
    tensor = tensors["mixed"]
    biases = np.abs(tensor.scales.astype(np.float64) * tensor.zeros)  # type: ignore[operator]
    moved = np.abs(dequantize(made) - dequantize(tensor)).reshape(4, 4, 64)
    assert (moved <= biases[..., None] * 2.0**-11 + 1e-6).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("group_size", [64, 128])
@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_mlx_groups_become_blocks_and_no_value_moves_by_more_than_a_step(
    bits: int, group_size: int, dtype: str
) -> None:
    tensor = mlx_tensor(bits, group_size, dtype, (2, 8, 256))
    # A group of one value, one far from zero with tiny steps, one of zeros.
    scales, biases = tensor.scales.copy(), tensor.biases.copy()  # type: ignore[union-attr]
    one = np.array(1, dtype=scales.dtype) if dtype != "BF16" else np.uint16(0x3F80)
    small = np.array(3e-5, dtype=scales.dtype) if dtype != "BF16" else np.uint16(0x37FB)
    scales[0, 0], biases[0, 0] = 0, one
    scales[0, 1], biases[0, 1] = small, one
    scales[0, 2], biases[0, 2] = 0, 0
    tensor = QuantizedTensor(**{**vars(tensor), "scales": scales, "biases": biases})
    made = to_blocks(tensor)
    before = dequantize(tensor).reshape(2, 8, 4, 64).astype(np.float64)
    after = dequantize(made).reshape(2, 8, 4, 64).astype(np.float64)
    steps = np.maximum(np.abs(made.scales.astype(np.float64)), 2.0**-24)[..., None]
    # F16 scales: 2**-11 of the range of the codes.
    allowed = steps * (1 + 2.0**bits * 2.0**-11)
    assert (np.abs(after - before) <= allowed).all()
    assert (made.group_size, made.dtype) == (64, "F16")
    if dtype == "F16":
        ordinary = np.s_[1:, :, :]
        codes = np.abs(after - before)[ordinary] / steps[ordinary]
        assert np.median(codes) < 0.05


def test_groups_of_32_are_fitted_to_blocks_only_when_asked(tmp_path: Path) -> None:
    tensor = mlx_tensor(4, 32, "F16", (4, 96))
    source = read_directory(write_mlx(tmp_path / "mlx", {"m": tensor}))
    with pytest.raises(InvalidTensorError, match="m: group_size: found 32"):
        convert_layout(source, tmp_path / "blocks", BLOCK_LAYOUT)
    conversion = convert_layout(source, tmp_path / "blocks", BLOCK_LAYOUT, requantize=True)
    assert conversion.requantized == ("m",)
    made = read_directory(tmp_path / "blocks").quantized("m")
    values = dequantize(tensor)
    spans = np.concatenate([np.ptp(values[:, :64], axis=1), np.ptp(values[:, 64:], axis=1)])
    assert np.abs(dequantize(made) - values).max() <= spans.max() / 15
    assert validate(tmp_path / "blocks").problems == ()


def test_rows_that_end_inside_a_block_go_to_groups_of_32_without_loss() -> None:
    tensor = block_tensor((3, 96), (4,))
    form = mlx_form(tensor, requantize=False)
    assert (form.bits, form.group_size) == (4, 32)
    moved = np.abs(dequantize(to_mlx(tensor, form)) - dequantize(tensor))
    assert moved.max() < 1e-3
    with pytest.raises(InvalidTensorError, match="inputs: found 100, expected a multiple of 32"):
        mlx_form(block_tensor((3, 100), (4,)), requantize=True)


def test_everything_else_comes_along_and_describes_the_new_files(tmp_path: Path) -> None:
    tensors = {"m": mlx_tensor(3, 64, "F16", (4, 128))}
    source = write_mlx(tmp_path / "mlx", tensors)
    result = CliRunner().invoke(
        app, ["convert", str(source), str(tmp_path / "blocks"), "--layout", "blocks", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["modules"] == 1
    made = read_directory(tmp_path / "blocks")
    assert "quantization" not in made.config
    assert made.manifest["format_version"] == "1.0"
    assert made.manifest["roles"] == {"m": "x"}
    assert made.manifest["quantization"]["bit_widths_used"] == [3]
    # 3 bits, 32 for scale and zero, 40 for the two maps, for 64 weights; and 16 bytes of shape.
    assert made.manifest["quantization"]["bits_per_weight"] == 3 + 72 / 64 + 8 * 16 / 512
    assert (tmp_path / "blocks" / "tokenizer.json").read_bytes() == b'{"a": 1}'
    np.testing.assert_array_equal(made.tensors["norm.weight"].map(), np.arange(8))


def test_a_conversion_onto_or_into_its_source_is_refused(tmp_path: Path) -> None:
    source = write_mlx(tmp_path / "mlx", {"m": mlx_tensor(4, 64, "F16", (4, 64))})
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    for out in (source, source / "inside"):
        with pytest.raises(OutputError, match="outside"):
            convert_layout(read_directory(source), out, BLOCK_LAYOUT)
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before


def test_block_layout_carries_stacks_and_odd_rows(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "experts": block_tensor((3, 4, 130), (2, 8)),
        "odd": block_tensor((5, 33), (6,)),
    }
    opened = read_directory(write_blocks(tmp_path / "blocks", tensors))
    for path, tensor in tensors.items():
        np.testing.assert_array_equal(dequantize(opened.quantized(path)), dequantize(tensor))
    assert validate(tmp_path / "blocks").problems == ()
