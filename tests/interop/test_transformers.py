"""Models of transformers keep the logits that torch gives them.

    uv run pytest -m interop tests/interop/test_transformers.py

Not run by default: torch and transformers are installed for it, a gigabyte from PyPI.
"""

import json
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from conftest import convert_to
from jang_format import read_header
from jang_quant import open_source
from jang_runtime.architecture import build_model, sanitize

pytestmark = pytest.mark.interop

SCRIPT: Final = Path(__file__).with_name("transformers_checkpoints.py")
HELPERS = run_path(
    str(Path(__file__).parents[2] / "packages" / "jang-quant" / "tests" / "checkpoints.py")
)
ARCHITECTURES: Final[dict[str, Any]] = HELPERS["ARCHITECTURES"]
published_shapes = HELPERS["published_shapes"]

PACKAGES: Final = ("torch==2.13.0", "transformers==5.23.0")
IDS: Final = mx.array([[5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300]])

# Not in transformers.
UNKNOWN: Final = ("phixtral",)
# Where mlx-lm and transformers read the same config differently.
WIDE: Final = {"sliding_window": 512}
CHANGES: Final[dict[str, dict[str, Any]]] = {
    # Its window is for all layers, whatever layer_types says.
    "ministral3_swa": WIDE,
    "mistral3": {"text_config": ARCHITECTURES["mistral3"]["config"]["text_config"] | WIDE},
    # It has steps of this size at least.
    "nemotron_h": {"time_step_min": 1e-9},
    # In full precision, and without its default scaling of RoPE, which rounds differently.
    "gpt_oss": {
        "quantization_config": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 150000},
    },
}
# It saves their experts in a form of its own.
OTHER_NAMES: Final = ("gpt_oss", "qwen3_5_moe")
# mlx-lm takes the other GELU, or the other way to compute it.
COARSE: Final = {name: 5e-3 for name in ARCHITECTURES if name.startswith("gemma")}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for each architecture, saved by transformers."""
    place = tmp_path_factory.mktemp("transformers")
    run(sys.executable, "-m", "venv", "environment", cwd=place)
    python = place / "environment" / "bin" / "python"
    # uv does not find every build of torch.
    run(python, "-m", "pip", "install", "--quiet", *PACKAGES, cwd=place)
    configs = {
        name: {key: value for key, value in (entry["config"] | CHANGES.get(name, {})).items()
               if value is not None}
        for name, entry in ARCHITECTURES.items()
        if name not in UNKNOWN
    }  # fmt: skip
    (place / "models.json").write_text(json.dumps(configs))
    run(python, "-I", SCRIPT, "models.json", "checkpoints", cwd=place)
    return place / "checkpoints"


def run(*command: str | Path, cwd: Path) -> None:
    ran = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in UNKNOWN])
def test_a_model_of_transformers_keeps_the_logits_that_torch_gives_it(
    name: str, checkpoints: Path, tmp_path: Path
) -> None:
    directory = checkpoints / name
    expected = np.load(directory / "logits.npy")
    source = open_source(str(directory))
    model: Any = build_model(source.config)
    weights = {path: mx.array(tensor.read()) for path, tensor in source.tensors.items()}
    model.load_weights(list(sanitize(model, weights).items()))
    off = np.array(model(IDS)[0]) - expected
    assert np.abs(off).max() < COARSE.get(name, 1e-4) * expected.std()

    packed: Any = load_model(convert_to(directory, tmp_path / "out", "UNIFORM_8"))[0]
    packed.set_dtype(mx.float32)
    off = np.array(packed(IDS)[0]) - expected
    assert np.sqrt(np.square(off).mean()) < 0.1 * expected.std()


@pytest.mark.parametrize(
    "name", [name for name in ARCHITECTURES if name not in UNKNOWN + OTHER_NAMES]
)
def test_our_random_checkpoints_are_named_as_transformers_names_them(
    name: str, checkpoints: Path
) -> None:
    saved = {
        tensor: stored.spec.shape
        for file in (checkpoints / name).glob("*.safetensors")
        for tensor, stored in read_header(file).items()
    }
    assert published_shapes(name).items() <= saved.items()
