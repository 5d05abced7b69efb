"""The backend that MLX computes on."""

from typing import Literal

import mlx.core as mx

Backend = Literal["metal", "cuda", "cpu"]


def detect_backend() -> Backend:
    """The backend that MLX computes on in this process."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"
