"""How much memory a conversion takes: that of a module or a layer, however many there are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_tiny_source

# Prints how far the memory of its own rose above what the imports took, in bytes.
PROGRAM = """
import sys, threading, time
from pathlib import Path

import jang_quant.cli
import numba, mlx_lm.models.llama, transformers

from jang_quant import Recipe, Request, convert, open_source, prepare


def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.005)


name, out, method, text = sys.argv[1:]
source = open_source(name)
calibration = None if method == "rtn" else text
request = Request("4M", method=method, calibration=calibration, sequences=4, length=32)
peak = start = anonymous()
threading.Thread(target=watch, daemon=True).start()
prepared = prepare(source, request, Path(out).parent)
convert(source, Path(out), prepared.plan, recipe=Recipe(method, prepared.calibration))
print(peak - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_memory_is_that_of_a_layer_and_not_of_the_model(method: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 100)
    taken: dict[int, int] = {}
    for layers in (2, 8):
        sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": layers}
        source = write_tiny_source(tmp_path / f"source{layers}", **sizes)
        work = tmp_path / f"work{layers}"
        work.mkdir()
        arguments = [str(source), str(work / "out"), method, str(text)]
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
        )
        taken[layers] = json.loads(found.stdout)
    layer = 4 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1024)
    # Six layers more, of which one is there at a time; one more may wait to be given back.
    assert taken[8] - taken[2] < 2 * layer
