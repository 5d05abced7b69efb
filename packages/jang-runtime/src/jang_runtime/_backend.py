"""The backend that MLX computes on."""

from typing import Literal

import mlx.core as mx

from jang_runtime._native import cpu_kernels_description

Backend = Literal["metal", "cuda", "cpu"]


def detect_backend() -> Backend:
    """The backend that MLX computes on in this process."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def describe_backend(backend: Backend) -> str:
    """A backend for people, with what computes on a CPU."""
    return f"{backend} ({cpu_kernels_description()})" if backend == "cpu" else backend
