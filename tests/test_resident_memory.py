"""A model in memory is as large as its files: nothing quantized is ever expanded.

The bound counts a process's own memory: Python, MLX and mlx-lm, which take about 60 MB, a
tokenizer, and the weights. On a GPU it counts what MLX holds there.
"""

import json
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest

from conftest import convert_to
from jang_runtime._native import cpu_kernels

HELPERS = run_path(str(Path(__file__).parents[1] / "benchmarks" / "packed_models.py"))

# Prints the bytes that are the process's own, anonymous ones and pages of the weights, and the most
# that MLX held. Pages of the libraries are left out: how many are mapped is the system's affair.
PROGRAM = """
import json, re, sys
from pathlib import Path

from jang_runtime._model import load
import mlx.core as mx

loaded = load(Path(sys.argv[1]))
mx.eval(loaded.model.parameters())
if sys.argv[2:]:
    mx.eval(loaded.model(mx.array([[int(token) for token in sys.argv[2:]]])))
own = 0
of_weights = False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
        of_weights = line.endswith(".safetensors")
    elif line.startswith("Rss:" if of_weights else "Anonymous:"):
        own += 1024 * int(line.split()[1])
print(json.dumps({
    "backend": loaded.info.backend,
    "resident": own,
    "on the device": mx.get_peak_memory(),
}))
"""

BESIDE_WEIGHTS = 150_000_000
TIMES_WEIGHTS = 1.15


def held(directory: Path, *tokens: int) -> int:
    """The bytes that a process holds which has loaded a model, and run it on tokens if any."""
    command = [sys.executable, "-c", PROGRAM, str(directory), *map(str, tokens)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    return found["resident" if found["backend"] == "cpu" else "on the device"]


def bound(directory: Path) -> float:
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return TIMES_WEIGHTS * weights + BESIDE_WEIGHTS


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a gigabyte at 2 bits in groups of 32, where scales are a third of the bytes."""
    sizes = {"num_hidden_layers": 18, "vocab_size": 65536}
    config = HELPERS["LLAMA_1B"] | sizes
    out = tmp_path_factory.mktemp("narrow") / "model"
    return HELPERS["write_packed_model"](out, config, lambda path: (2, 32))


@pytest.fixture(scope="module")
def smollm2_at_4_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_to("smollm2", tmp_path_factory.mktemp("smollm2") / "out", "UNIFORM_4")


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.skipif(cpu_kernels() is None, reason="without the kernels scales are float32")
def test_a_loaded_model_takes_no_more_memory_than_its_files(narrow: Path) -> None:
    """Not even float32 scales: they would make a third more of the files."""
    assert held(narrow) <= bound(narrow)


def test_smollm2_takes_no_more_memory_than_its_files_when_it_runs(smollm2_at_4_bits: Path) -> None:
    """Its matrices in 16 bits would be three times the files."""
    assert held(smollm2_at_4_bits, *range(40)) <= bound(smollm2_at_4_bits)
