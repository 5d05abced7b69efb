"""Collecting statistics: second moments of inputs, squared gradients of outputs.

The model runs stage by stage, each over the whole text before the next, so that only one stage's
weights are in memory. Hidden states go from stage to stage through files; a stage that is done has
a file of statistics, and is not run again by whoever takes up the work.
"""

import math
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]
from numpy.typing import NDArray

from jang_quant._calibration.gradients import GradientObserver, Objective, sampled_labels
from jang_quant._calibration.inputs import InputObserver
from jang_quant._calibration.rows import append_row, keep_rows, read_row
from jang_quant._calibration.stages import Stage, stages_of
from jang_quant._calibration.statistics import CalibrationText
from jang_quant._calibration.store import write_gradients, write_moments
from jang_quant._calibration.taps import tapped
from jang_quant._calibration.triangle import folded_size
from jang_quant._errors import ConversionError
from jang_quant._sources.source import SourceTensor

# Sequences that go backwards too, which takes twice as long.
DEFAULT_BACKWARD: Final = 32
_BYTES: Final = 4


@dataclass(frozen=True)
class Progress:
    """How far the collection is, in sequences run through a stage."""

    done: int
    total: int
    what: str


@dataclass(frozen=True)
class _Work:
    """A collection at work.

    Attributes:
        model: The source model, without weights.
        weights: The weights, read when they are needed.
        text: The text.
        backward: How many sequences go backwards.
        folder: Where hidden states and statistics are kept.
    """

    model: nn.Module
    weights: Mapping[str, SourceTensor]
    text: CalibrationText
    backward: int
    folder: Path

    def hidden(self, number: int) -> Path:
        """The hidden states that go into a stage."""
        return self.folder / f"hidden-{number:05d}.rows"

    def gradient(self, number: int) -> Path:
        """Their gradients."""
        return self.folder / f"gradient-{number:05d}.rows"

    def moments(self, number: int) -> Path:
        """The second moments of a stage."""
        return self.folder / f"moments-{number:05d}.safetensors"

    def fisher(self, number: int) -> Path:
        """The squared gradients of a stage."""
        return self.folder / f"gradients-{number:05d}.safetensors"


def collect(
    model: nn.Module,
    weights: Mapping[str, SourceTensor],
    text: CalibrationText,
    folder: Path,
    *,
    backward: int = DEFAULT_BACKWARD,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Run text through a model and note what its modules see, in files that `store.join` reads.

    Args:
        model: The source model, its weights never computed.
        weights: Its weights by path.
        text: The text.
        folder: Where the files go; what is there already is not made again.
        backward: How many of the sequences also go backwards.
        on_progress: Called after every sequence.

    Raises:
        ConversionError: If the disk is too small.
    """
    work = _Work(model, weights, text, min(backward, len(text.tokens)), folder)
    stages = stages_of(model, _examples(text.tokens))
    _check_space(work, stages)
    total = len(stages) * (len(text.tokens) + work.backward)
    done = 0

    def step(what: str, sequences: int) -> None:
        nonlocal done
        done += sequences
        on_progress(Progress(done, total, what))

    for number, stage in enumerate(stages):
        if work.moments(number).exists():
            step(stage.name, len(text.tokens))
        else:
            _forwards(work, number, stage, number == len(stages) - 1, step)
    for number, stage in reversed(list(enumerate(stages))):
        if work.fisher(number).exists():
            step(f"{stage.name}, backwards", work.backward)
        else:
            _backwards(work, number, stage, number == len(stages) - 1, step)


def _check_space(work: _Work, stages: Sequence[Stage]) -> None:
    """Refuse a disk on which second moments and hidden states do not fit.

    Raises:
        ConversionError: If so.
    """
    shapes = {p: work.weights[f"{p}.weight"].shape for stage in stages for p in stage.modules}
    # Modules of one parent with as many inputs mostly have the same inputs.
    inputs = {(path.rpartition(".")[0], shape[-1]): shape for path, shape in shapes.items()}
    moments = sum(
        math.prod(shape[:-2]) * folded_size(shape[-1]) * _BYTES for shape in inputs.values()
    )
    width = next(iter(shapes.values()))[-1]
    row = work.text.tokens.shape[1] * width * _BYTES
    hidden = row * (2 * len(work.text.tokens) + work.backward * len(stages))
    there = sum(file.stat().st_size for file in work.folder.iterdir())
    free = shutil.disk_usage(work.folder).free + there
    # In the end they are there twice: stage by stage, and in one file.
    needed = 2 * moments + hidden
    if free < needed:
        raise ConversionError(
            f"{work.folder}: found {free / 1e9:,.1f} GB free on its disk, expected about "
            f"{needed / 1e9:,.1f} GB for what calibration measures"
        )


def _examples(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Two different rows as long as a sequence."""
    return np.stack([tokens[0], np.roll(tokens[0], 1) if len(tokens) == 1 else tokens[1]])


def _forwards(
    work: _Work, number: int, stage: Stage, is_last: bool, step: Callable[[str, int], None]
) -> None:
    """Run all sequences through a stage and write its second moments."""
    observer = InputObserver()
    following = work.hidden(number + 1)
    following.unlink(missing_ok=True)
    paths = dict.fromkeys(stage.modules)
    with _weights_of(work, stage), tapped(work.model, paths, observer):
        for index, sequence in enumerate(work.text.tokens):
            given = stage.run(mx.array(sequence)[None], _hidden(work, number, index))
            observer.add_up()
            if not is_last:
                append_row(following, given)
            step(stage.name, 1)
    write_moments(work.moments(number), observer.key_of, observer.found(), work.text.tokens.size)
    # What is left is for the way back.
    if number > 0:
        keep_rows(work.hidden(number), work.backward)


def _backwards(
    work: _Work, number: int, stage: Stage, is_last: bool, step: Callable[[str, int], None]
) -> None:
    """Run gradients back through a stage and write their mean squares."""
    observer = GradientObserver()
    work.gradient(number).unlink(missing_ok=True)
    with _weights_of(work, stage), tapped(work.model, dict.fromkeys(stage.modules), observer):
        for index, sequence in enumerate(work.text.tokens[: work.backward]):
            objective = (
                sampled_labels(work.text.seed + index + 1)
                if is_last
                else _continued(_row(work.gradient(number + 1), index))
            )
            hidden = _hidden(work, number, index)
            gradient = observer.go_back(stage.run, mx.array(sequence)[None], hidden, objective)
            if number > 0:
                append_row(work.gradient(number), gradient)
            step(f"{stage.name}, backwards", 1)
    write_gradients(work.fisher(number), observer.outputs(), observer.lookups())
    work.gradient(number + 1).unlink(missing_ok=True)
    work.hidden(number).unlink(missing_ok=True)


def _continued(gradient: mx.array) -> Objective:
    """What the stages after this one have found, as a number to take the gradient of."""
    return lambda given: (given * gradient).sum()


def _row(file: Path, index: int) -> mx.array:
    """The hidden states of a sequence, or their gradient, `[1, length, ...]`."""
    return mx.array(read_row(file, index))


def _hidden(work: _Work, number: int, index: int) -> mx.array:
    """What goes into a stage; nothing into the first one."""
    return _row(work.hidden(number), index) if number > 0 else mx.zeros((1,))


@contextmanager
def _weights_of(work: _Work, stage: Stage) -> Generator[None]:
    """Have the weights of a stage in memory, in float32, while the block runs."""
    # The model's own are random numbers that are never computed.
    flat = cast(list[tuple[str, mx.array]], tree_flatten(work.model.parameters()))
    wanted = set(stage.parameters)
    without = {path: array for path, array in flat if path in wanted}
    load = cast(Any, work.model).load_weights
    load([(path, mx.array(work.weights[path].read())) for path in stage.parameters], strict=False)
    try:
        yield
    finally:
        load(list(without.items()), strict=False)
        mx.clear_cache()
