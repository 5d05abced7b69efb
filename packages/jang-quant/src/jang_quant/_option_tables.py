"""The ways to store each module that a budget chooses from, and what each would damage."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from jang_format import BIT_WIDTHS, quantized_bytes
from jang_quant._calibration.collect import Progress
from jang_quant._calibration.statistics import Calibration
from jang_quant._plan import Plan, PlannedModule
from jang_quant._profiles import follows_profile
from jang_quant._sensitivity import Option, measure, read_options, write_options
from jang_quant._sources.source import Source

_OPTIONS_FILE: Final = "options.json"


def changing_modules(base: Plan) -> list[PlannedModule]:
    """The modules whose bits a budget decides: those whose role's bits differ between profiles."""
    return [m for m in base.modules if m.bits is not None and follows_profile(m.role)]


def prior_table(base: Plan) -> dict[str, Sequence[Option]]:
    """Options with the damage that the profile's bits suggest, for want of a measurement.

    Where a profile gives one role two bits more than another, an error there counts 16 times as
    much: each bit more makes the squared error of a weight a quarter.
    """
    table: dict[str, Sequence[Option]] = {}
    for module in changing_modules(base):
        assert module.bits is not None
        assert module.group_size is not None
        weight = module.parameters * 4.0**module.bits
        table[module.path] = [
            Option(
                bits,
                module.group_size,
                quantized_bytes(module.shape, bits, module.group_size),
                weight * 4.0**-bits,
            )
            for bits in BIT_WIDTHS
        ]
    return table


def _measured_table(
    source: Source,
    base: Plan,
    calibration: Calibration,
    group_size: int,
    on_progress: Callable[[Progress], None],
) -> Mapping[str, Sequence[Option]]:
    """Options with the damage that calibration predicts; what it did not reach keeps its bits."""
    variable = {module.path: module for module in changing_modules(base)}
    known = {
        path: statistics
        for path, statistics in calibration.modules.items()
        if path in variable and (statistics.gradients is not None or statistics.lookups is not None)
    }
    sizes = sorted({variable[path].group_size or group_size for path in known})
    done = 0

    def on_module(path: str) -> None:
        nonlocal done
        done += 1
        on_progress(Progress(done, len(known), "measuring modules"))

    return measure(
        lambda path: source.tensors[f"{path}.weight"].read(),
        known,
        sizes,
        source.float_dtype,
        on_module,
    )


def kept_table(
    source: Source,
    base: Plan,
    calibration: Calibration,
    group_size: int,
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> Mapping[str, Sequence[Option]]:
    """Options as they were measured into a folder before, or are now.

    Args:
        source: The model.
        base: Its modules.
        calibration: What was measured of them.
        group_size: The one that was asked for.
        folder: That of this work alone.
        on_progress: Called after every module.
    """
    kept = folder / _OPTIONS_FILE
    if not kept.exists():
        table = _measured_table(source, base, calibration, group_size, on_progress)
        write_options(kept, table)
    return read_options(kept)
