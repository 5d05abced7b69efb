from collections.abc import Callable, Generator

import mlx.core as mx
import mlx.nn as nn

def generate_step(
    prompt: mx.array,
    model: nn.Module,
    *,
    max_tokens: int = ...,
    sampler: Callable[[mx.array], mx.array] | None = ...,
    prefill_step_size: int = ...,
    prompt_progress_callback: Callable[[int, int], None] | None = ...,
) -> Generator[tuple[int, mx.array], None, None]: ...
