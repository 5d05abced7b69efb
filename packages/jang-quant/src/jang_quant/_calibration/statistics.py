"""What calibration knows of a model."""

from collections.abc import Mapping
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
class ModuleStatistics:
    """What one module saw, and how much its outputs matter.

    A gradient is that of the log-likelihood of labels which the model itself sampled, so the mean
    of its square is the Fisher information of an output.

    Attributes:
        hessian: Mean of `x x^T` over the inputs, `[in, in]`; None where none was seen.
        gradients: Mean square of the gradient with respect to each output, `[out]`; None where
            none came back.
        lookups: For an embedding; one that is the head too has all three.
    """

    hessian: Floats | None
    gradients: Floats | None
    lookups: Lookups | None

    def input_weights(self) -> Floats | None:
        """How much an error counts by the weight's input, `[in]`; None where nothing is known."""
        weights: Floats | None = None
        if self.hessian is not None:
            importance = 1.0 if self.gradients is None else float(self.gradients.mean())
            weights = np.diag(self.hessian).astype(np.float32) * np.float32(importance)
        if self.lookups is not None:
            looked_up = self.lookups.gradients * np.float32(self.lookups.frequencies.mean())
            weights = looked_up if weights is None else np.add(weights, looked_up)
        return None if weights is None else weights.astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """Statistics of all modules that the text reached, by module path."""

    text: CalibrationText
    modules: Mapping[str, ModuleStatistics]
