"""The vocabulary of a GGUF file: tokens, special tokens, and what ends an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jang_quant._sources.gguf_header import GgufHeader, mismatch, optional, required

PREFIX: Final = "tokenizer.ggml."
CONTROL: Final = 3
USER_DEFINED: Final = 4

# Those of Llama 3 and Mistral: a piece of text that is a token is not put together by merges,
# and text begins with BOS unless the file says otherwise.
WHOLE_PIECES: Final = frozenset(
    {
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano", "tekken",
    }
)  # fmt: skip
# How byte-level BPE spells a byte: as itself where that can be seen, as a later letter elsewhere.
_VISIBLE: Final = (*range(33, 127), *range(161, 173), *range(174, 256))
_SPELLING: Final = {number: chr(number) for number in _VISIBLE} | {
    number: chr(256 + index)
    for index, number in enumerate(number for number in range(256) if number not in _VISIBLE)
}
_ALPHABET: Final = frozenset(_SPELLING.values())

# The file's key and the name in Hugging Face's files.
_SPECIAL: Final = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# What a chat model ends its turn with, beside the one end-of-text token that a file names.
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
_END_TOKENS: Final = (
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
)


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of its tokens.

    Attributes:
        model: "gpt2" for byte-level BPE, "llama" for sentencepiece.
        pre: How text is cut before BPE, by llama.cpp's name.
        tokens: In the order of their ids.
        types: llama.cpp's token types: 1 is normal, 3 control, 4 user-defined.
        special: Ids by Hugging Face's name: bos_token …
        ends: The tokens that end an answer, the file's own end of text first.
        add_bos: Whether a text begins with BOS.
        add_eos: Whether a text ends with EOS.
        chat_template: In Jinja.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    special: Mapping[str, int]
    ends: list[int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_vocabulary(header: GgufHeader, rows: int) -> Vocabulary:
    """The vocabulary of a file.

    Args:
        header: Of the file.
        rows: How many tokens the embedding has room for.

    Raises:
        SourceError: If it is missing or contradicts itself.
    """
    model = required(header, f"{PREFIX}model", str)
    pre = optional(header, f"{PREFIX}pre", str) or ""
    tokens = strings(header, "tokens")
    if len(tokens) > rows:
        raise mismatch(
            header.path, f"{PREFIX}tokens", f"{len(tokens)} tokens", f"at most {rows}, as embedded"
        )
    types = _types(header, len(tokens))
    special = {
        name: number
        for name, key in _SPECIAL.items()
        if (number := _token_id(header, key, len(tokens))) is not None
    }
    add_bos = optional(header, f"{PREFIX}add_bos_token", bool)
    if add_bos is None:
        # As llama.cpp does for files that do not say.
        add_bos = model == "llama" or pre in WHOLE_PIECES
    chat_template = optional(header, "tokenizer.chat_template", str)
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        types=types,
        special=special,
        ends=_ends(header, tokens, types, chat=chat_template is not None),
        add_bos=add_bos and "bos_token" in special,
        add_eos=bool(optional(header, f"{PREFIX}add_eos_token", bool)) and "eos_token" in special,
        chat_template=chat_template,
    )


def strings(header: GgufHeader, name: str) -> list[str]:
    """The strings of one of the tokenizer's keys.

    Raises:
        SourceError: If there are none.
    """
    key = PREFIX + name
    values = required(header, key, list)
    if not values or not isinstance(values[0], str):
        raise mismatch(header.path, key, repr(values[:3]), "strings")
    return values


def _types(header: GgufHeader, count: int) -> list[int]:
    key = f"{PREFIX}token_type"
    types = optional(header, key, list)
    if types is None:
        return [1] * count
    if len(types) != count or type(types[0]) is not int:
        raise mismatch(header.path, key, f"{len(types)} types", f"{count} numbers")
    return types


def _token_id(header: GgufHeader, key: str, count: int) -> int | None:
    number = optional(header, PREFIX + key, int)
    if number is not None and not 0 <= number < count:
        raise mismatch(header.path, PREFIX + key, str(number), f"a token, 0 to {count - 1}")
    return number


def _ends(header: GgufHeader, tokens: list[str], types: list[int], *, chat: bool) -> list[int]:
    """The tokens that end an answer, the file's own end of text first."""
    numbers = [_token_id(header, key, len(tokens)) for key in _END_KEYS]
    if chat:
        by_text = {
            token: number
            for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        }
        numbers += [by_text.get(token) for token in _END_TOKENS]
    return list(dict.fromkeys(number for number in numbers if number is not None))


def spell_bytes(token: str) -> str:
    """A token as byte-level BPE spells it, if the file spells it otherwise: "\u0120a" for " a"."""
    if _ALPHABET.issuperset(token):
        return token
    return "".join(_SPELLING[byte] for byte in token.encode())
