"""Reading weight files through mlx-lm's classes: one tensor at a time, from any thread, again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from jang_quant import SourceError, open_source
from jang_quant._sources import checkpoint

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))
write_checkpoint = HELPERS["write_checkpoint"]
random_tensors = HELPERS["random_tensors"]


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads nearly everything from stacks that are made while reading."""
    return write_checkpoint(tmp_path_factory.mktemp("experts") / "source", "qwen3_moe")


def test_values_are_not_kept_once_they_are_read(experts: Path) -> None:
    tensors = open_source(str(experts)).tensors
    largest = max(4 * int(np.prod(tensor.shape)) for tensor in tensors.values())
    before = mx.get_active_memory()
    for tensor in tensors.values():
        tensor.read()
        assert mx.get_active_memory() - before < largest


def test_everything_can_be_read_twice_and_the_files_are_opened_once_more_for_it(
    experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openings = 0
    read_weights = checkpoint.read_weights

    def counted(files: list[Path]) -> Any:
        nonlocal openings
        openings += 1
        return read_weights(files)

    monkeypatch.setattr(checkpoint, "read_weights", counted)
    tensors = open_source(str(experts)).tensors
    first = {path: tensor.read() for path, tensor in tensors.items()}
    for path, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.read(), first[path])
    assert openings == 2
    tensors = open_source(str(experts)).tensors
    for path, tensor in tensors.items():
        for _ in range(2):
            np.testing.assert_array_equal(tensor.read(), first[path])
    assert openings == 4


def test_another_thread_reads_the_same_values(experts: Path) -> None:
    tensors = open_source(str(experts)).tensors
    path = "model.layers.1.mlp.switch_mlp.down_proj.weight"
    with ThreadPoolExecutor(1) as executor:
        elsewhere = executor.submit(tensors[path].read).result()
        # MLX asks this of threads that end.
        executor.submit(mx.clear_streams).result()
    np.testing.assert_array_equal(tensors[path].read(), elsewhere)


def test_arrays_that_a_class_changes_in_place_are_read_as_changed(tmp_path: Path) -> None:
    """Falcon-H1's class multiplies weights by numbers of the config."""
    directory = write_checkpoint(tmp_path / "source", "falcon_h1")
    stored = random_tensors("falcon_h1")
    head = open_source(str(directory)).tensors["lm_head.weight"].read()
    product = stored["lm_head.weight"] * 0.7
    np.testing.assert_array_equal(head, np.array(product.astype(mx.float32)))


@pytest.mark.parametrize("lost", [4, 100_000])
def test_a_file_that_changes_after_it_was_opened_is_an_error_of_the_source(
    tmp_path: Path, lost: int
) -> None:
    directory = write_checkpoint(tmp_path / "source", "qwen2")
    tensors = open_source(str(directory)).tensors
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(SourceError, match=r"cannot be read|found it changed") as caught:
        tensors["model.norm.weight"].read()
    assert "\n" not in str(caught.value)


def rewrite(directory: Path, change: Any) -> None:
    file = str(directory / "model.safetensors")
    weights: dict[str, Any] = mx.load(file)  # type: ignore[assignment]
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(file, weights)


def fuse_experts(weights: dict[str, Any]) -> None:
    """As transformers 5 holds them: gate, then up, of all experts of a layer."""
    for layer in range(2):
        mlp = f"model.layers.{layer}.mlp"

        def stacked(part: str, mlp: str = mlp) -> mx.array:
            names = [f"{mlp}.experts.{expert}.{part}_proj.weight" for expert in range(3)]
            return mx.stack([weights.pop(name) for name in names])

        gate_up = mx.concatenate([stacked("gate"), stacked("up")], axis=1)
        weights[f"{mlp}.experts.gate_up_proj"] = gate_up
        weights[f"{mlp}.experts.down_proj"] = stacked("down")


def separate_experts(weights: dict[str, Any]) -> None:
    """The way back, for a class that expects them fused."""
    for layer in range(2):
        experts = f"model.language_model.layers.{layer}.mlp.experts"
        gate, up = mx.split(weights.pop(f"{experts}.gate_up_proj"), 2, axis=1)
        down = weights.pop(f"{experts}.down_proj")
        for part, array in (("gate", gate), ("up", up), ("down", down)):
            for expert in range(array.shape[0]):
                weights[f"{experts}.{expert}.{part}_proj.weight"] = array[expert]


def gpt_oss_in_full_precision(weights: dict[str, Any]) -> None:
    """What transformers makes of the MXFP4 codes."""
    for name in [name for name in weights if name.endswith("_blocks")]:
        base = name.removesuffix("_blocks")
        codes = mx.contiguous(weights.pop(name)).view(mx.uint32).flatten(-2)
        values = mx.dequantize(codes, weights.pop(f"{base}_scales"), mode="mxfp4")
        weights[base] = mx.contiguous(values.swapaxes(-1, -2))


@pytest.mark.parametrize(
    ("name", "change", "config"),
    [
        ("qwen2_moe", fuse_experts, {}),
        ("qwen3_moe", fuse_experts, {}),
        ("qwen3_next", fuse_experts, {}),
        ("qwen3_moe", None, {"num_experts": None, "num_local_experts": 3}),
        ("qwen3_5_moe", separate_experts, {}),
        ("gpt_oss", gpt_oss_in_full_precision, {"quantization_config": None}),
        (
            "granitemoehybrid",
            None,
            {"layer_types": ["linear_attention", "full_attention"]},
        ),
        ("gemma3_text", None, {"sliding_window_pattern": None, "_sliding_window_pattern": 2}),
        (
            "gemma4_moe",
            None,
            {
                "global_head_dim": None,
                "num_global_key_value_heads": None,
                "per_layer_config": {"1": {"head_dim": 128, "num_key_value_heads": 1}},
            },
        ),
    ],
)
def test_what_transformers_5_writes_otherwise_gives_the_same_tensors(
    tmp_path: Path, name: str, change: Any, config: dict[str, Any]
) -> None:
    published = open_source(str(write_checkpoint(tmp_path / "published", name)))
    directory = write_checkpoint(tmp_path / "newer", name, **config)
    if change is not None:
        rewrite(directory, change)
    newer = open_source(str(directory))
    assert newer.config.items() >= published.config.items()
    assert set(newer.tensors) == set(published.tensors)
    for path, tensor in published.tensors.items():
        np.testing.assert_array_equal(newer.tensors[path].read(), tensor.read(), err_msg=path)


def test_no_position_embedding_is_what_null_means_for_granite(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "source", "granitemoehybrid")
    file = directory / "config.json"
    file.write_text(file.read_text().replace('"position_embedding_type": "rope"',
                                             '"position_embedding_type": null'))  # fmt: skip
    assert open_source(str(directory)).config["position_embedding_type"] == "nope"


def test_parameters_that_mlx_lm_keeps_in_float32_are_stored_so(tmp_path: Path) -> None:
    from jang_format import read_directory
    from jang_quant import convert, find_profile, plan_source

    directory = write_checkpoint(tmp_path / "source", "deepseek_v3")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    exact = mx.array([1.00001, 1.00002, 1.00003])
    rewrite(directory, lambda weights: weights.update({name: exact}))
    source = open_source(str(directory))
    plan = plan_source(source, find_profile("2S"))
    convert(source, tmp_path / "out", plan)
    opened = read_directory(tmp_path / "out")
    stored = opened.tensors[name]
    assert stored.spec.dtype == "F32"
    np.testing.assert_array_equal(stored.map(), np.array(exact))
    assert opened.tensors["model.norm.weight"].spec.dtype == "F16"
    assert sum(tensor.spec.nbytes for tensor in opened.tensors.values()) == plan.tensor_bytes
