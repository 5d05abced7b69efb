"""SmolLM2 in the same bytes, ours beside MLX's own quantization and other programs.

    uv run python benchmarks/quality/smollm2.py wiki.test.raw CALIBRATION --work DIR

CALIBRATION is a text. Makes and measures all models, keeps them in DIR, and writes
docs/results/divergence-smollm2.md. What DIR has already is not made again. README.md has the rest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Before anything imports MLX, which a fast BLAS has to precede.
import jang_runtime.blas  # noqa: F401 # pyright: ignore[reportUnusedImport]

# isort: split
from campaign import Campaign, Candidate, arguments, begin, finish
from checkout import ROOT
from divergence import Divergence
from models import Logits, directory_weights, model_of, size_of
from ours import Conversion, calibration_of, convert, damage_of
from peers import Workshop, make_all, published_program, write_source
from records import Record
from selection import EVERYTHING, QUICK, Selection
from smollm2_page import page

RESULT: Final = ROOT / "docs" / "results" / "divergence-smollm2.md"


def make_peers(campaign: Campaign, selection: Selection, calibration: Path) -> None:
    """Make the models of other programs."""
    asked = campaign.asked
    workshop = Workshop(
        source=write_source(campaign.source, asked.work / "source"),
        calibration=calibration,
        published=published_program(asked.published, asked.work),
    )
    wanted = [*selection.uniform, *selection.others]
    make_all(wanted, workshop, campaign.models, asked.jobs)


def conversions(campaign: Campaign, selection: Selection, c4: Path, own: Path) -> list[Conversion]:
    """Ours by bits with both calibrations, and to the bytes of each other model."""
    by_bits = [
        Conversion(each.ours(text), ("--bits", str(each.bits)), file)
        for each in selection.comparisons
        for text, file in (("c4", c4), ("self", own))
    ]
    config = campaign.source.config
    sizes = {peer: size_of(campaign.models / peer.name, config) for peer in selection.others}
    by_bytes = [
        Conversion(peer.ours, ("--size", str(size.nbytes)), c4) for peer, size in sizes.items()
    ]
    return by_bits + by_bytes


def candidates(campaign: Campaign, names: Sequence[str]) -> list[Candidate]:
    """The directories, to be measured."""
    return [_candidate(campaign, campaign.models / name) for name in names]


def _candidate(campaign: Campaign, directory: Path) -> Candidate:
    config = campaign.source.config

    def load() -> Logits:
        return model_of(config, directory_weights(directory))

    def record(divergence: Divergence) -> Record:
        size = size_of(directory, config)
        return Record(
            name=directory.name,
            divergence=divergence,
            nbytes=size.nbytes,
            bits_per_weight=size.bits_per_weight,
            damage=damage_of(directory),
            calibration=calibration_of(directory),
        )

    return Candidate(directory.name, load, record)


def main() -> None:
    """Make, measure, write the page."""
    asked = arguments(__doc__)
    campaign = begin(asked)
    selection = QUICK if asked.quick else EVERYTHING
    if not asked.page_only:
        c4 = campaign.calibration(asked.calibration, "c4")
        own = campaign.calibration(asked.own, "self")
        make_peers(campaign, selection, c4)
        convert(conversions(campaign, selection, c4, own), campaign.models, asked.jobs)
        campaign.measure(candidates(campaign, selection.names))
    finish(asked, RESULT, page(campaign.conditions, campaign.records, selection))


if __name__ == "__main__":
    main()
