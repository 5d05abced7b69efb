"""Sources that are quantized already: undone exactly, or refused with a reason."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from conftest import convert_to, write_tiny_source
from jang_format import decode_floats, dequantize, read_directory
from jang_quant import SourceError, convert, find_profile, open_source, plan_source
from jang_runtime.architecture import build_model

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))
write_checkpoint = HELPERS["write_checkpoint"]

Raw = tuple[str, NDArray[Any]]


def write_raw(file: Path, tensors: dict[str, Raw]) -> None:
    """A safetensors file of any types: name -> (dtype, bytes in an array of the tensor's shape)."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, array) in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        span = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit(directory: Path, change: Callable[[dict[str, Raw]], None], **config: Any) -> None:
    """Change the tensors of a directory in 16 bits, and its config."""
    weights: dict[str, Any] = mx.load(str(directory / "model.safetensors"))  # type: ignore[assignment]
    names = {mx.float16: "F16", mx.bfloat16: "BF16"}
    tensors: dict[str, Raw] = {
        name: (names[array.dtype], np.array(array.view(mx.uint16)))
        for name, array in weights.items()
    }
    change(tensors)
    write_raw(directory / "model.safetensors", tensors)
    written = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(written | config))


def e4m3(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The numbers of FP8 codes, from the definition."""
    sign = np.where(codes >> 7, -1.0, 1.0)
    exponent, fraction = (codes >> 3 & 15).astype(int), codes & 7
    normal = (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return (sign * np.where(exponent == 0, fraction / 8 * 2.0**-6, normal)).astype(np.float32)


def random_codes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    codes = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    # 0x7F and 0xFF are NaN.
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8)


NAME = "model.layers.1.mlp.down_proj.weight"
SHAPE = (128, 256)


def blocks(rows: int, columns: int) -> NDArray[np.float32]:
    shape = (math.ceil(SHAPE[0] / rows), math.ceil(SHAPE[1] / columns))
    return np.random.default_rng(4).uniform(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "suffix", "config"),
    [
        (blocks(128, 128), "_scale_inv", {"quant_method": "fp8"}),
        (blocks(96, 48), "_scale_inv", {"quant_method": "fp8", "weight_block_size": [96, 48]}),
        (np.float32(0.25), "_scale_inv", {"quant_method": "fp8"}),
        (
            blocks(1, 256),
            "_scale",
            {"quant_method": "compressed-tensors", "format": "float-quantized"},
        ),
        (
            blocks(1, 256)[:, 0],
            "_scale",
            {"quant_method": "compressed-tensors", "format": "naive-quantized"},
        ),
        (
            np.random.default_rng(4).integers(120, 130, (128, 8)).astype(np.uint8),
            "_scale_inv",
            {"quant_method": "mxfp8", "weight_block_size": [1, 32]},
        ),
    ],
    ids=["blocks", "other blocks", "tensor", "column of rows", "rows", "exponents"],
)
def test_fp8_codes_become_the_product_with_their_scale(
    tmp_path: Path, scale: NDArray[Any], suffix: str, config: dict[str, Any]
) -> None:
    directory = write_tiny_source(tmp_path / "source", dtype=mx.float16)
    codes = random_codes(SHAPE)

    def change(tensors: dict[str, Raw]) -> None:
        tensors[NAME] = ("F8_E4M3", codes)
        tensors[NAME + suffix] = ("U8" if scale.dtype == np.uint8 else "F32", np.asarray(scale))
        tensors[NAME.replace("weight", "input_scale")] = ("F32", np.ones(1, np.float32))

    edit(directory, change, quantization_config=config)
    source = open_source(str(directory))
    if scale.dtype == np.uint8:
        scale = 2.0 ** (scale.astype(np.float32) - 127)
    grid = scale.reshape(-1, 1) if scale.ndim == 1 else scale
    if scale.ndim == 2:
        size = config.get("weight_block_size", [128, 128])
        rows = np.arange(SHAPE[0]) // (size[0] if scale.shape[0] < SHAPE[0] else 1)
        columns = np.arange(SHAPE[1]) // size[1] if scale.shape[1] > 1 else np.zeros(256, int)
        grid = scale[rows][:, columns]
    np.testing.assert_array_equal(source.tensors[NAME].read(), e4m3(codes) * grid)
    assert source.quantization == source.dtype
    assert source.dtype in ("FP8 E4M3", "MXFP8")
    out = tmp_path / "out"
    convert(source, out, plan_source(source, find_profile("4M")))
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


def test_fp8_as_deepseek_publishes_it_gives_what_mlx_lm_makes_of_it_before_it_rounds(
    tmp_path: Path,
) -> None:
    """Experts, and the projection that mlx-lm splits for MLA, are codes in blocks of 128."""
    directory = write_checkpoint(tmp_path / "source", "deepseek_v3")

    def change(tensors: dict[str, Raw]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            rows, columns = shape = tensors[name][1].shape
            grid = np.random.default_rng(rows).uniform(
                0.001, 0.01, (-(-rows // 128), -(-columns // 128))
            )
            tensors[name] = ("F8_E4M3", random_codes(shape))
            tensors[f"{name}_scale_inv"] = ("F32", grid.astype(np.float32))

    edit(directory, change, quantization_config={"quant_method": "fp8"})
    source = open_source(str(directory))
    stock: dict[str, Any] = dict(tree_flatten(load_model(directory)[0].parameters()))
    for path, tensor in source.tensors.items():
        rounded = mx.array(tensor.read()).astype(stock[path].dtype)
        assert mx.array_equal(rounded, stock[path]).item(), path
    experts = source.tensors["model.layers.1.mlp.switch_mlp.up_proj.weight"].read()
    assert not np.array_equal(
        experts, np.array(mx.array(experts).astype(mx.bfloat16).astype(mx.float32))
    )


def test_four_bit_codes_of_compressed_tensors_become_their_values(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source", dtype=mx.float16)
    random = np.random.default_rng(5)
    codes = random.integers(0, 16, SHAPE).astype(np.uint32)
    scale = random.uniform(0.01, 0.02, (128, 8)).astype(np.float16)
    words = (codes.reshape(128, 32, 8) << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1)

    def change(tensors: dict[str, Raw]) -> None:
        del tensors[NAME]
        tensors[f"{NAME}_packed"] = ("I32", words.astype(np.uint32).view(np.int32))
        tensors[f"{NAME}_scale"] = ("F16", scale)
        tensors[f"{NAME}_shape"] = ("I64", np.array(SHAPE, np.int64))

    edit(directory, change, quantization_config=int4())
    values = (codes.astype(np.float32) - 8) * scale.astype(np.float32).repeat(32, axis=1)
    source = open_source(str(directory))
    np.testing.assert_array_equal(source.tensors[NAME].read(), values)
    assert source.quantization == "INT4"


def int4(**changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32} | changes
    groups = {"group_0": {"weights": weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": groups,
    }


def test_our_own_output_is_a_source_with_exactly_the_values_it_stands_for(
    tiny_source: Path, tmp_path: Path
) -> None:
    out = convert_to(tiny_source, tmp_path / "out", "3M")
    directory = read_directory(out)
    source = open_source(str(out))
    quantized = directory.quantized_paths()
    for path in quantized:
        values = dequantize(directory.quantized(path))
        np.testing.assert_array_equal(source.tensors[f"{path}.weight"].read(), values)
    norm = directory.tensors["model.norm.weight"]
    np.testing.assert_array_equal(
        source.tensors["model.norm.weight"].read(), decode_floats(norm.map(), norm.spec.dtype)
    )
    assert source.quantization == "MLX affine 3/4/6-bit"
    assert (source.dtype, source.float_dtype) == ("MLX affine 3/4/6-bit", "BF16")
    again = convert_to(out, tmp_path / "again", "2M")
    config = json.loads((again / "config.json").read_text())
    assert config["quantization"]["model.layers.0.mlp.up_proj"]["bits"] == 2


@pytest.mark.parametrize(
    ("mode", "bits", "group_size"),
    [("affine", 4, 32), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)],
)
def test_every_mode_of_mlx_is_undone(tmp_path: Path, mode: str, bits: int, group_size: int) -> None:
    directory = write_tiny_source(tmp_path / "source", dtype=mx.float16)
    config = json.loads((directory / "config.json").read_text())
    model = build_model(config)
    model.load_weights(str(directory / "model.safetensors"))
    nn.quantize(model, group_size, bits, mode=mode)
    parameters: dict[str, Any] = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), parameters)
    quantization = {"group_size": group_size, "bits": bits, "mode": mode}
    (directory / "config.json").write_text(json.dumps(config | {"quantization": quantization}))
    source = open_source(str(directory))
    assert source.quantization == f"MLX {mode} {bits}-bit"
    parts = [
        parameters.get(NAME.replace("weight", part)) for part in ("weight", "scales", "biases")
    ]
    parts = [part if part is None or mode != "affine" or part.dtype == mx.uint32
             else part.astype(mx.float32) for part in parts]  # fmt: skip
    values = mx.dequantize(*parts, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32)
    np.testing.assert_array_equal(source.tensors[NAME].read(), np.array(values))
    assert np.abs(np.array(values)).max() > 0.1


@pytest.mark.parametrize(("dtype", "kept"), [(mx.bfloat16, "BF16"), (mx.float16, "F16")])
def test_a_model_made_in_bfloat16_keeps_that_for_its_scales(
    tmp_path: Path, dtype: mx.Dtype, kept: str
) -> None:
    """The range of its activations is not that of float16, whatever its weights are stored as."""
    directory = write_tiny_source(tmp_path / "source", dtype=dtype)

    def change(tensors: dict[str, Raw]) -> None:
        for name in [name for name in tensors if "mlp" in name]:
            tensors[name] = ("F8_E4M3", random_codes(tensors[name][1].shape))
            tensors[f"{name}_scale_inv"] = ("F32", np.float32(0.001).reshape(()))

    edit(directory, change, quantization_config={"quant_method": "fp8"})
    source = open_source(str(directory))
    assert source.float_dtype == kept
    converted = convert(source, tmp_path / "out", plan_source(source, find_profile("4M")))
    assert converted.float_dtype == kept


REFUSED: list[tuple[dict[str, Any], Callable[[dict[str, Raw]], None], str]] = [
    (
        {"quant_method": "gptq", "bits": 4},
        lambda tensors: None,
        "config.json: quantization_config.quant_method: found 'gptq', expected a model in bf16",
    ),
    ({"quant_method": "awq"}, lambda tensors: None, "quant_method: found 'awq'"),
    ({"load_in_4bit": True}, lambda tensors: None, "quant_method: found None"),
    (
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        lambda tensors: None,
        "quantization_config.format: found 'nvfp4-pack-quantized', expected float-quantized",
    ),
    (
        int4(symmetric=False),
        lambda tensors: None,
        r"config_groups.group_0.weights: found .* = \(4, 'int', False\), expected",
    ),
    (
        {"quant_method": "fp8"},
        lambda tensors: tensors.update({NAME: ("F8_E4M3", random_codes(SHAPE))}),
        f"model.safetensors: {NAME}: found F8_E4M3 without a scale, expected {NAME}_scale_inv too",
    ),
    (
        {"quant_method": "fp8"},
        lambda tensors: tensors.update(
            {
                NAME: ("F8_E4M3", random_codes(SHAPE)),
                f"{NAME}_scale_inv": ("F32", np.ones((3, 2), np.float32)),
            }
        ),
        rf"{NAME}: found scales \(3, 2\) for \(128, 256\), expected blocks of \[128, 128\]",
    ),
    (
        {"bits": 4, "group_size": 64},
        lambda tensors: tensors.update(
            {
                NAME: ("U32", np.ones((128, 48), np.uint32)),
                NAME.replace("weight", "scales"): ("F16", np.ones((128, 4), np.float16)),
                NAME.replace("weight", "biases"): ("F16", np.ones((128, 5), np.float16)),
            }
        ),
        r"down_proj: found weight \(128, 48\) and scales \(128, 4\), expected those of 256",
    ),
]


@pytest.mark.parametrize(("config", "change", "message"), REFUSED)
def test_what_cannot_be_undone_is_refused_in_one_line(
    tmp_path: Path,
    config: dict[str, Any],
    change: Callable[[dict[str, Raw]], None],
    message: str,
) -> None:
    directory = write_tiny_source(tmp_path / "source", dtype=mx.float16)
    edit(directory, change, quantization_config=config)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(directory))
    assert "\n" not in str(caught.value)


def test_a_model_quantized_by_modelopt_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_source(tmp_path / "source")
    (directory / "hf_quant_config.json").write_text("{}")
    with pytest.raises(SourceError, match="hf_quant_config.json: file: found a model quantized by"):
        open_source(str(directory))
