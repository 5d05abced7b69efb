"""Every architecture: roles, tensors as mlx-lm makes them, and answers after a conversion.

The checkpoints are random, in the names in which such models are published (checkpoints.py).
"""

import re
from collections import defaultdict
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from conftest import convert_to
from jang_format import ModelDirectory, decode_floats, dequantize, read_directory, validate
from jang_quant import find_profile, open_source, plan_source
from jang_runtime.architecture import build_model, sanitize

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))
ARCHITECTURES = HELPERS["ARCHITECTURES"]
write_checkpoint = HELPERS["write_checkpoint"]

IDS = mx.array([[5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300]])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp(name) / "source", name)


def load(directory: Path) -> Any:
    """By stock mlx-lm, computing in float32."""
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return model


def logits(model: Any) -> NDArray[np.float32]:
    return np.array(model(IDS)[0])


def test_every_module_has_the_role_that_is_written_down_for_it(name: str, checkpoint: Path) -> None:
    plan = plan_source(open_source(str(checkpoint)), find_profile("4M"))
    found: dict[str, set[str]] = defaultdict(set)
    for module in plan.modules:
        found[module.role].add(re.sub(r"^.*\.(layers|h)\.\d+\.", "", module.path))
    roles = ARCHITECTURES[name]["roles"]
    assert found == {role: set(modules.split()) for role, modules in roles.items()}
    assert all(module.bits is None for module in plan.modules if module.role == "router")


def test_the_tensors_are_those_that_stock_mlx_lm_makes_of_the_checkpoint(
    checkpoint: Path,
) -> None:
    source = open_source(str(checkpoint))
    stock: dict[str, Any] = dict(tree_flatten(load_model(checkpoint)[0].parameters()))
    packed = {path.removesuffix(".scales") for path in stock if path.endswith(".scales")}
    assert set(source.tensors) == {path for path in stock if not path.endswith(".scales")}
    for path, tensor in source.tensors.items():
        expected = stock[path]
        if path.removesuffix(".weight") in packed:
            scales = stock[path.replace(".weight", ".scales")]
            expected = mx.dequantize(expected, scales, mode="mxfp4")
        values = np.array(expected.astype(mx.float32))
        np.testing.assert_array_equal(tensor.read(), values, err_msg=path)


def test_eight_bits_give_nearly_the_logits_of_the_unquantized_model(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Half a per cent of error in each matrix makes 1 to 5 in all; one out of place makes 25."""
    expected = logits(load(checkpoint))
    out = convert_to(checkpoint, tmp_path / "out", "UNIFORM_8")
    assert validate(out).problems == ()
    off = logits(load(out)) - expected
    assert np.sqrt(np.square(off).mean()) < 0.08 * expected.std()


def test_stock_mlx_lm_computes_with_our_values_at_mixed_widths(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Packed, the result gives what the unquantized model gives with the dequantized weights."""
    out = convert_to(checkpoint, tmp_path / "out", "2S")
    directory = read_directory(out)
    assert len({directory.quantized(path).bits for path in directory.quantized_paths()}) > 1
    plain = build_model(directory.config)
    plain.load_weights(list(sanitize(plain, plain_weights(directory)).items()))
    np.testing.assert_allclose(logits(load(out)), logits(plain), atol=1e-3)


def plain_weights(directory: ModelDirectory) -> dict[str, mx.array]:
    """All weights of a directory in float32, dequantized by jang-format."""
    quantized = set(directory.quantized_paths())
    weights = {f"{path}.weight": dequantize(directory.quantized(path)) for path in quantized}
    for name, stored in directory.tensors.items():
        path, _, part = name.rpartition(".")
        if path not in quantized or part == "bias":
            weights[name] = decode_floats(stored.map(), stored.spec.dtype)
    return {name: mx.array(values) for name, values in weights.items()}
