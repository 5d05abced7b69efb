"""Layer by layer or all at once: calibration of every architecture sees the same."""

from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from jang_quant import Source, open_source
from jang_quant._calibration import stages
from jang_quant._calibration.collect import collect
from jang_quant._calibration.run import empty_model
from jang_quant._calibration.statistics import Calibration, CalibrationText
from jang_quant._calibration.store import join, load
from jang_runtime.architecture import quantizable_modules

HELPERS = run_path(str(Path(__file__).with_name("checkpoints.py")))
ARCHITECTURES = HELPERS["ARCHITECTURES"]
# Layers that give more than hidden states, or take more than those of the layer before.
WHOLE = {"gemma3n", "gemma4", "gemma4_moe", "gemma4_text"}
# The first is used the other way round, so that its inputs are another module's outputs; the others
# where a text is longer than what attention chooses from it, and only for choosing.
UNSEEN = ("embed_q", "indexer.weights_proj", "indexer.wq_b", "indexer.wk")
TEXT = CalibrationText(
    np.random.default_rng(0).integers(1, 300, (3, 40), dtype=np.int32), "test", 0
)


def calibrated(source: Source, folder: Path) -> Calibration:
    folder.mkdir()
    collect(empty_model(source), source.tensors, TEXT, folder, backward=2)
    join(folder, TEXT, source, folder / "known.safetensors")
    return load(folder / "known.safetensors", source)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_in_stages_sees_what_it_sees_as_a_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(HELPERS["write_checkpoint"](tmp_path / "source", name)))
    model = empty_model(source)
    count = len(stages.stages_of(model, TEXT.tokens[:2]))
    assert count == (1 if name in WHOLE else len(model.layers) + 2)
    in_stages = calibrated(source, tmp_path / "stages")
    monkeypatch.setattr(stages, "_find_layers", lambda model: None)
    whole = calibrated(source, tmp_path / "whole")
    assert in_stages.modules.keys() == whole.modules.keys()
    missing = quantizable_modules(model).keys() - whole.modules.keys()
    assert all(path.endswith(UNSEEN) for path in missing), missing
    for path, one in whole.modules.items():
        other = in_stages.modules[path]
        known = one.gradients is not None or one.lookups is not None
        assert known or path.endswith(UNSEEN), path
        for found, expected in (
            (other.gradients, one.gradients),
            (other.moments and other.moments.diagonals, one.moments and one.moments.diagonals),
            (other.moments and other.moments.shares, one.moments and one.moments.shares),
            (other.moments and other.moments.read(0), one.moments and one.moments.read(0)),
            (other.lookups and other.lookups.gradients, one.lookups and one.lookups.gradients),
        ):
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                scale = float(np.abs(expected).max())
                np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * scale)
