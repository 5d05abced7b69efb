"""Whether what jang-quant predicts of plans comes true.

    uv run python benchmarks/quality/predicted_divergence.py wiki.test.raw CALIBRATION --work DIR

CALIBRATION is a text. Measures plans of many kinds, keeps the records in DIR, and writes
docs/results/predicted-divergence.md with its picture. What DIR has already is not measured again.
README.md has the rest.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

# Before anything imports MLX, which a fast BLAS has to precede.
import jang_runtime.blas  # noqa: F401 # pyright: ignore[reportUnusedImport]

# isort: split
from calibrations import describe
from campaign import Campaign, Candidate, arguments, begin, finish
from checkout import ROOT
from divergence import Divergence
from models import Logits, Weights, model_of, source_weights
from predicted_page import Point, page, series
from predicted_plot import draw
from predictions import EVERYTHING, QUICK, Trial, Workbench, open_workbench, trials
from records import Record

RESULT: Final = ROOT / "docs" / "results" / "predicted-divergence.md"
PICTURE: Final = RESULT.with_suffix(".png")
_TRIALS: Final = "trials.json"


def candidates(campaign: Campaign, bench: Workbench, wanted: Sequence[Trial]) -> list[Candidate]:
    """The trials, to be measured."""
    weights = source_weights(campaign.source)
    return [_candidate(campaign, bench, weights, trial) for trial in wanted]


def _candidate(campaign: Campaign, bench: Workbench, weights: Weights, trial: Trial) -> Candidate:
    def load() -> Logits:
        return model_of(campaign.source.config, {**weights, **bench.weights(trial)})

    def record(divergence: Divergence) -> Record:
        return Record(
            name=trial.name,
            divergence=divergence,
            bits_per_weight=trial.bits_per_weight,
            damage=trial.damage,
        )

    return Candidate(trial.name, load, record)


def measured(campaign: Campaign, file: Path) -> None:
    """Measure all trials and note what they were."""
    asked = campaign.asked
    calibration = campaign.calibration(asked.calibration, "c4")
    bench = open_workbench(campaign.source, calibration)
    wanted = trials(bench, QUICK if asked.quick else EVERYTHING)
    campaign.measure(candidates(campaign, bench, wanted))
    noted = {
        "calibration": describe(calibration, campaign.source),
        "trials": [asdict(trial) for trial in wanted],
    }
    file.write_text(json.dumps(noted))


def main() -> None:
    """Measure, draw, write the page."""
    asked = arguments(__doc__)
    campaign = begin(asked)
    file = campaign.records.directory / _TRIALS
    if not asked.page_only:
        measured(campaign, file)
    noted = json.loads(file.read_text())
    points = [
        Point(trial, campaign.records.read(trial.name).divergence.mean)
        for trial in (Trial(**content) for content in noted["trials"])
    ]
    picture = asked.work / PICTURE.name if asked.quick else PICTURE
    draw(series(points), picture)
    finish(asked, RESULT, page(campaign.conditions, noted["calibration"], points, picture.name))


if __name__ == "__main__":
    main()
