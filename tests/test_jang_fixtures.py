"""Directories that others wrote decode to the weights that their logits were computed with.

Those of the published converter lie outside of the repository, in `../shared`; ours in `tests/data`
cover the same rules everywhere, and their logits come from numpy in float64.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from jang_format import ModelDirectory, decode_floats, dequantize, read_directory
from jang_runtime import ModelError
from jang_runtime._loading import load_model
from jang_runtime.architecture import build_model, sanitize

OURS = Path(__file__).parent / "data"
PUBLISHED = Path(__file__).parents[2] / "shared" / "fixtures" / "jang"
# What the expected logits of the published ones were computed from.
IDS = [5, 6, 7, 8, 9, 10, 11, 12, 40, 41, 42, 100, 101, 300]
# Blocks of two widths with the values of another directory, and so with its logits.
HANDMADE, SAME_VALUES = "v1.0-handmade-mixed-bits-per-block", "v1.0-seedstyle-llama-JANG_2S"

# How far a logit, and the sum of all 14 * 512 of them, may be from the expected one.
#
# Expected in float32: the eight logits that are given differ by 4.4e-5 at most, of which rounding
# to four digits explains 5e-5; the sums by 6e-6. A bias rounded to F16 moves a sum by 6e-2.
#
# Expected in float16: the eight logits differ by 1.1e-2 at most, the sums by 6.5e-2. That is what
# float16 costs: mlx-lm 0.32.2 in float16 gives the expected numbers, every argmax included, and all
# of its logits differ from those in float32 by 2.1e-2 at most.
TOLERANCES = {
    "mlx.core.float32": {"logit": 1e-4, "sum": 1e-3},
    "mlx.core.float16": {"logit": 1.5e-2, "sum": 0.1},
}
# Of the 70 argmax one is another one in float32: token 327 at position 11, by 1.1642 to 1.1609. In
# float16 it is 1.1572 to 1.1592, and there numbers of that size are 0.001 apart.
NEAR_TIES = {"v2-llama-h96-JANG_4M-mixed-gs": {11: 327}}


def published(pattern: str) -> list[Any]:
    """Names of the published directories; one that is skipped where they are not there."""
    names = sorted(path.name for path in PUBLISHED.glob(pattern))
    reason = f"the published fixtures are not at {PUBLISHED}"
    return names or [pytest.param(pattern, marks=pytest.mark.skip(reason=reason))]


def values(directory: ModelDirectory) -> dict[str, NDArray[np.float32]]:
    """Every weight of a model in float32, by the name that it has unquantized."""
    weights = {
        f"{path}.weight": dequantize(directory.quantized(path))
        for path in directory.quantized_paths()
    }
    for name in directory.tensors.keys() - directory.quantized_names():
        tensor = directory.tensors[name]
        weights[name] = decode_floats(tensor.map(), tensor.spec.dtype)
    return weights


def float32_logits(directory: ModelDirectory, ids: list[int]) -> NDArray[np.float32]:
    """What mlx-lm's model class makes of the weights, `[tokens, vocabulary]`.

    On the CPU, for GPUs may take products in float32 for an invitation to round.
    """
    with mx.stream(mx.cpu):
        model = build_model(directory.config)
        weights = {name: mx.array(array) for name, array in values(directory).items()}
        model.load_weights(list(sanitize(model, weights).items()), strict=True)
        model.eval()
        return np.array(model(mx.array([ids]))[0])


def expected_of(name: str) -> dict[str, Any]:
    """What the published programs computed from a directory."""
    entries: dict[str, Any] = {}
    for file in PUBLISHED.glob("expected_*.json"):
        entries |= json.loads(file.read_text())
    return entries[SAME_VALUES if name == HANDMADE else name]


@pytest.mark.parametrize("name", published("v*"))
def test_a_published_directory_gives_the_logits_of_the_program_that_it_was_made_for(
    name: str,
) -> None:
    found = float32_logits(read_directory(PUBLISHED / name), IDS)
    expected = expected_of(name)
    tolerance = TOLERANCES[expected["dtype"]]
    likeliest = dict(enumerate(expected["argmax"])) | NEAR_TIES.get(name, {})
    assert dict(enumerate(found.argmax(axis=-1).tolist())) == likeliest
    # "last8" are the first eight logits of the last position.
    np.testing.assert_allclose(found[-1, :8], expected["last8"], rtol=0, atol=tolerance["logit"])
    total = found.sum(dtype=np.float64)
    np.testing.assert_allclose(total, expected["sum"], rtol=0, atol=tolerance["sum"])


@pytest.mark.parametrize("name", published(HANDMADE))
def test_blocks_of_two_widths_decode_to_the_values_of_blocks_of_one(name: str) -> None:
    mixed, uniform = read_directory(PUBLISHED / name), read_directory(PUBLISHED / SAME_VALUES)
    assert any(mixed.quantized(path).bits is None for path in mixed.quantized_paths())
    found, expected = values(mixed), values(uniform)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in OURS.glob("*/config.json")))
def test_a_directory_of_ours_gives_the_logits_of_numpy_in_float64(name: str) -> None:
    expected = json.loads((OURS / name / "expected.json").read_text())
    found = float32_logits(read_directory(OURS / name), expected["ids"])
    # They are rounded to five digits; 3.7e-5 was the largest difference.
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in OURS.glob("*/config.json")))
def test_a_directory_of_ours_runs_as_it_is(name: str) -> None:
    directory = read_directory(OURS / name)
    expected = json.loads((OURS / name / "expected.json").read_text())
    if name == "blocks-of-separate-experts":
        # Blocks of 32 and of several widths, as no program has written them for long.
        with pytest.raises(ModelError, match="found an old form of blocks, expected blocks of 64"):
            load_model(directory, directory.config, "cpu")
        return
    model: Any = load_model(directory, directory.config, "cpu")
    found = np.array(model(mx.array([expected["ids"]]))[0])
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", published("v*"))
def test_a_published_directory_runs_as_it_is(name: str) -> None:
    directory = read_directory(PUBLISHED / name)
    model: Any = load_model(directory, directory.config, "cpu")
    found = np.array(model(mx.array([IDS]))[0])
    expected = float32_logits(directory, IDS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_our_directories_have_the_widths_groups_and_dtypes_that_there_are() -> None:
    """So that a rule whose directory gets lost is missed."""
    seen: set[tuple[str, object]] = set()
    for file in OURS.glob("*/config.json"):
        directory = read_directory(file.parent)
        for path in directory.quantized_paths():
            tensor = directory.quantized(path)
            seen |= {(directory.layout.name, int(width)) for width in np.unique(tensor.bit_map)}
            seen |= {("groups", tensor.group_size), ("dtype", tensor.dtype)}
            seen |= {
                ("experts", len(tensor.shape)),
                ("padding", tensor.shape[-1] % tensor.group_size > 0),
            }
    widths = {(layout, width) for layout in ("mlx", "blocks") for width in (2, 3, 4, 5, 6, 8)}
    assert seen == widths | {
        *(("groups", size) for size in (32, 64, 128)),
        *(("dtype", dtype) for dtype in ("F16", "BF16", "F32")),
        *(("experts", dimensions) for dimensions in (2, 3)),
        *(("padding", is_there) for is_there in (False, True)),
    }


def test_our_directories_stay_small() -> None:
    assert sum(file.stat().st_size for file in OURS.rglob("*") if file.is_file()) < 2_000_000


@pytest.mark.parametrize(
    ("path", "inputs", "hidden"),
    [
        ("backbone.layers.0.mixer.out_proj", 128, 64),
        ("model.layers.0.mlp.down_proj", 128, 64),
        ("model.layers.0.self_attn.q_b_proj", 64, 128),
    ],
)
def test_where_one_pair_is_stated_modules_of_unknown_sizes_are_read_as_stated(
    tmp_path: Path, path: str, inputs: int, hidden: int
) -> None:
    """The shapes fit 4 bits in groups of 64, and 8 in groups of 32 for half as many inputs, too.

    Most MLX directories state one pair for all modules, and that is true.
    """
    config = {"hidden_size": hidden, "intermediate_size": hidden}
    quantization = {"group_size": 64, "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization": quantization}))
    floats = np.ones((2, inputs // 64), dtype=np.float16)
    words = np.zeros((2, inputs // 8), dtype=np.uint32)
    parts = {f"{path}.weight": words, f"{path}.scales": floats, f"{path}.biases": floats}
    save_file(parts, tmp_path / "model.safetensors")
    tensor = read_directory(tmp_path).quantized(path)
    assert (tensor.bits, tensor.group_size, tensor.shape) == (4, 64, (2, inputs))


def test_without_a_shape_latent_attention_has_the_outputs_of_its_values(tmp_path: Path) -> None:
    """DeepSeek's heads are of one size for queries and keys and of another for values."""
    config = {"hidden_size": 64, "num_attention_heads": 2, "v_head_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = "model.layers.0.self_attn.o_proj"
    # 64 rows of two blocks, 2 bits each.
    parts = {
        "qweight": np.zeros(64 * 2 * 16, dtype=np.uint8),
        "scales": np.ones(64 * 2, dtype=np.float16),
        "zeros": np.ones(64 * 2, dtype=np.float16),
        "bit_map": np.full(64 * 2, 2, dtype=np.uint8),
    }
    tensors = {f"{path}.{part}": array for part, array in parts.items()}
    save_file(tensors, tmp_path / "model.jang.safetensors")
    assert read_directory(tmp_path).quantized(path).shape == (64, 128)
