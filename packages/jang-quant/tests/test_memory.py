"""Plans that fit into memory: the cache is that of a real run, and the sum is kept."""

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from typer.testing import CliRunner

from jang_format import read_directory
from jang_quant import Request, Source, SourceTensor, prepare
from jang_quant._memory import _caches, _largest
from jang_quant.cli import app
from jang_runtime.architecture import build_model, parameter_shapes

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))
ARCHITECTURES = HELPERS["ARCHITECTURES"]

# Of 70 thousand million parameters: no test machine has the memory.
LARGE = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


def source_of(config: dict[str, Any]) -> Source:
    """A source whose weights nobody may read."""

    def read() -> Any:
        raise AssertionError("read")

    shapes = parameter_shapes(build_model(config))
    tensors = {path: SourceTensor(shape, "BF16", read) for path, shape in shapes.items()}
    return Source("large", config, tensors, {}, "BF16", "BF16", None, "0")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_cache_has_the_bytes_that_it_has_in_a_run(name: str) -> None:
    model: Any = build_model(ARCHITECTURES[name]["config"])
    growing, constant = _caches(model)
    said = constant + _largest(growing, 300, chunk=64)
    cache = make_prompt_cache(model)
    seen = [0]
    for tokens in (64, 64, 64, 64, 43, 1):
        mx.eval(model(mx.full((1, tokens), 3), cache=cache))
        seen.append(sum(one.nbytes for one in cache))
    assert said == max(seen)


def test_a_model_larger_than_this_machine_is_fitted_without_computing_a_weight() -> None:
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    prepared = prepare(source_of(LARGE), Request(fit_memory="48GB", context=32768))
    assert mx.get_peak_memory() - before < 1e6
    needs = prepared.memory
    assert needs is not None
    # Layers, keys and values, heads, their size, tokens, two bytes.
    assert needs.cache == 80 * 2 * 8 * 128 * 32768 * 2
    assert needs.weights == prepared.plan.tensor_bytes
    assert 48e9 * 0.999 < needs.total <= 48e9
    assert 0.5e9 < needs.workspace < 2.5e9


def test_what_is_written_is_what_memory_leaves_for_weights(
    tiny_source: Path, tmp_path: Path
) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    source, out = str(tiny_source), tmp_path / "out"
    ample = run("plan", source, "--fit-memory", "1GB")["memory"]
    # The config allows 512: two layers, keys and values, two heads of 32, two bytes.
    assert (ample["context"], ample["cache"]) == (512, 2 * 2 * 2 * 32 * 512 * 2)
    limit = ample["cache"] + ample["workspace"] + 250_000
    written = run("convert", source, str(out), "--fit-memory", str(limit))
    assert 250_000 * 0.97 < written["weight_bytes"] <= 250_000
    assert written["weight_bytes"] == read_directory(out).weight_bytes
    assert written["memory"]["total"] <= limit
    assert f"--fit-memory {limit}" in (out / "README.md").read_text()


def test_the_plan_says_what_fits_and_what_takes_how_much(tiny_source: Path) -> None:
    said = CliRunner().invoke(app, ["plan", str(tiny_source), "--fit-memory", "2GB"]).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("fits in")]
    assert line.startswith("fits in 2 GB with 512 tokens: weights 0.00 + cache 0.00 + workspace ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fit-memory", "0.1GB"], "found 0.10 GB, expected at least 0.51 GB for the smallest"),
        (["--fit-memory", "lots"], "--fit-memory: found 'lots', expected one such as 38GB"),
        (["--fit-memory", "1GB", "--size", "1GB"], "found more than one, expected one of them"),
        (["--context", "100"], "--context: found 100 alone, expected --fit-memory with it"),
    ],
)
def test_memory_that_cannot_be_met_is_one_line_and_status_2(
    options: list[str], message: str, tiny_source: Path
) -> None:
    result = CliRunner().invoke(app, ["plan", str(tiny_source), *options])
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (2, 1, "")
    assert message in result.stderr
