from typing import Any

import mlx.nn as nn

def make_prompt_cache(model: nn.Module, max_kv_size: int | None = ...) -> list[Any]: ...

class ArraysCache: ...

class KVCache:
    keys: Any
    values: Any
    offset: int
    def empty(self) -> bool: ...

class QuantizedKVCache:
    keys: Any
    values: Any
    offset: int
    def empty(self) -> bool: ...
