from typing import Any, Protocol

class _Backend(Protocol):
    def to_str(self) -> str: ...

GGUF_PRE_TOKENIZER_SPLITS: dict[str, str]

def convert_gguf_tokenizer(
    architecture: str, tokenizer_dict: dict[str, Any]
) -> tuple[_Backend, dict[str, Any]]: ...
