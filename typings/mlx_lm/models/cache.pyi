from typing import Any

import mlx.nn as nn

def make_prompt_cache(model: nn.Module, max_kv_size: int | None = ...) -> list[Any]: ...

class ArraysCache: ...
