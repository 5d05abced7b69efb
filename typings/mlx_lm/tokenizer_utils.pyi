from typing import Any

class TokenizerWrapper:
    has_chat_template: bool
    eos_token_ids: set[int]
    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool = ...,
        add_generation_prompt: bool = ...,
    ) -> list[int]: ...
    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool = ...,
        clean_up_tokenization_spaces: bool = ...,
    ) -> str: ...
    def __len__(self) -> int: ...
    def __getattr__(self, name: str) -> Any: ...
