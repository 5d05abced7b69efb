"""What calibration knows of a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CalibrationText:
    """Token sequences that are run through the source model.

    Attributes:
        tokens: int32 `[sequences, length]`.
        origin: "self", or the name of the file that they come from.
        seed: What chose the sequences.
    """

    tokens: NDArray[np.int32]
    origin: str
    seed: int


@dataclass(frozen=True)
class Lookups:
    """What a module did whose rows are looked up by token numbers.

    Attributes:
        frequencies: Share of the tokens that took each row, `[rows]`.
        gradients: Mean square of the gradient with respect to each looked-up value, `[in]`.
    """

    frequencies: Floats
    gradients: Floats


@dataclass(frozen=True)
class SecondMoments:
    """Means of `x x^T` over a module's inputs; for a stack, of each matrix's own inputs.

    `stack` is 1 for a module with one matrix, and for a stack whose matrices all see one input.

    Attributes:
        diagonals: Mean square of each input, `[stack, in]`.
        shares: How many inputs each matrix saw for each token of the text, `[stack]`.
        read: Reads the mean of `x x^T`, `[in, in]`, of the matrix with this number.
        sparse: Numbers of the matrices that saw too few inputs to know their own moments; they have
            those of all inputs of the module.
    """

    diagonals: Floats
    shares: Floats
    read: Callable[[int], Floats]
    sparse: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModuleStatistics:
    """What one module saw, and how much its outputs matter.

    A gradient is that of the log-likelihood of labels which the model itself sampled, so the mean
    of its square is the Fisher information of an output.

    Attributes:
        moments: Second moments of the inputs; None where none was seen.
        gradients: Mean square of the gradient with respect to each output, `[stack, out]`; None
            where none came back.
        lookups: For an embedding; one that is the head too has all three.
    """

    moments: SecondMoments | None
    gradients: Floats | None
    lookups: Lookups | None

    def input_weights(self) -> Floats | None:
        """How much an error counts by the weight's input, `[stack, in]`; None if nothing is known.

        Within one matrix; between the matrices of a stack the numbers mean nothing.
        """
        weights: Floats | None = None
        if self.moments is not None:
            importance = 1.0 if self.gradients is None else float(self.gradients.mean())
            weights = self.moments.diagonals * np.float32(importance)
        if self.lookups is not None:
            looked_up = self.lookups.gradients * np.float32(self.lookups.frequencies.mean())
            weights = looked_up[None] if weights is None else np.add(weights, looked_up)
        return None if weights is None else weights.astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """Statistics of all modules that the text reached, by module path."""

    text: CalibrationText
    modules: Mapping[str, ModuleStatistics]
