"""What all matrices of a model take: the one count behind every "bits per weight"."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model together.

    Attributes:
        weights: How many weights they have.
        nbytes: Their bytes, with scales, biases, zeros and maps.
    """

    weights: int
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight; 0 where there is no matrix."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0


def count_matrices(parts: Iterable[tuple[tuple[int, ...], int]]) -> Matrices:
    """Count the matrices among the parts of a model.

    A matrix is what has two dimensions or more, whether it is quantized or not, and whether it
    could be: embeddings and convolutions too, but no norm and no bias vector.

    Args:
        parts: Shape of the values, and bytes, of each module and of each tensor that is no part of
            a module.
    """
    matrices = [(math.prod(shape), nbytes) for shape, nbytes in parts if len(shape) >= 2]
    return Matrices(
        weights=sum(weights for weights, _ in matrices),
        nbytes=sum(nbytes for _, nbytes in matrices),
    )
