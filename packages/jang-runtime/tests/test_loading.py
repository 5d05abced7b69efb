"""Directories that are loaded, and those that are refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from jang_format import BLOCK_LAYOUT, convert_layout, read_directory
from jang_runtime import ModelError
from jang_runtime._model import load


@pytest.fixture(scope="module")
def tiny_blocks(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in block layout, one width in each tensor."""
    out = tmp_path_factory.mktemp("blocks") / "blocks"
    convert_layout(read_directory(tiny_model), out, BLOCK_LAYOUT)
    return out


def changed(directory: Path, out: Path, file: str, **changes: object) -> Path:
    """A copy with other values for keys of a JSON file."""
    shutil.copytree(directory, out)
    content: dict[str, Any] = json.loads((out / file).read_text())
    (out / file).write_text(json.dumps(content | changes))
    return out


def test_blocks_of_one_width_run_in_the_modules_of_mlx_over_the_same_bytes(
    tiny_blocks: Path,
) -> None:
    stored = read_directory(tiny_blocks)
    model: Any = load(tiny_blocks).model
    modules: dict[str, Any] = dict(model.named_modules())
    for path in stored.quantized_paths():
        module, tensor = modules[path], stored.quantized(path)
        assert isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding)
        assert module.weight.dtype == mx.uint32
        assert np.array(module.weight).tobytes() == tensor.packed.tobytes()


def test_the_same_weights_give_the_same_logits_in_both_layouts(
    tiny_model: Path, tiny_blocks: Path
) -> None:
    ids = mx.array([[5, 9, 200, 3, 77]])
    in_mlx, in_blocks = (load(path).model for path in (tiny_model, tiny_blocks))
    expected, found = np.array(in_mlx(ids)), np.array(in_blocks(ids))
    # Zeros are rounded to F16 on the way into blocks.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize("source", [[1], "nothing", 7, {"name": ["x"], "quantization": {}}])
def test_a_manifest_that_says_nonsense_of_the_source_does_not_keep_a_model_from_loading(
    tiny_model: Path, tmp_path: Path, source: object
) -> None:
    directory = changed(tiny_model, tmp_path / "out", "jang_config.json", source_model=source)
    assert isinstance(load(directory).info.source_name, str)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_position_embeddings": "many"}, "max_position_embeddings: found 'many', expected"),
        ({"model_file": "model.py"}, "model_file: found a program, expected none"),
        ({"hidden_size": 64}, "[Ee]xpected"),
        ({"model_type": "nothing"}, "mlx-lm cannot build it"),
    ],
)
@pytest.mark.parametrize("layout", ["tiny_model", "tiny_blocks"])
def test_a_config_that_does_not_fit_is_refused_in_one_line(
    layout: str,
    changes: dict[str, object],
    message: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    directory = changed(request.getfixturevalue(layout), tmp_path / "out", "config.json", **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load(directory)
    assert "\n" not in str(caught.value)


def test_quantization_of_other_programs_is_refused_with_the_way_out(
    tiny_source: Path, tmp_path: Path
) -> None:
    foreign = {"quant_method": "gptq", "bits": 4}
    directory = changed(tiny_source, tmp_path / "out", "config.json", quantization_config=foreign)
    with pytest.raises(ModelError, match="quantization_config: found a format of other programs"):
        load(directory)
