"""From the vocabulary of a GGUF file to the files that a tokenizer is loaded from.

transformers builds the tokenizer; what it leaves out of what the file and the model's own
tokenizer say is put right here, in the JSON.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jang_format import first_line
from jang_quant._sources.gguf_header import GgufHeader, mismatch, optional
from jang_quant._sources.gguf_vocabulary import (
    CONTROL,
    PREFIX,
    USER_DEFINED,
    WHOLE_PIECES,
    Vocabulary,
    read_vocabulary,
    spell_bytes,
    strings,
)

# llama.cpp's pre-tokenizers that are GPT-2's, which needs no change.
_PLAIN: Final = frozenset({"default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"})
# Those that take each digit alone, and are GPT-2's otherwise.
_SINGLE_DIGITS: Final = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
# Those whose tokenizers compose letters and accents first, which no key says.
_COMPOSED: Final = frozenset({"qwen2", "qwen35"})
# How sentencepiece spells a space.
_SPACE: Final = "\u2581"

_logger = logging.getLogger("jang_quant")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the vocabulary becomes.

    Attributes:
        files: Content by file name.
        config: The keys of config.json that name special tokens.
    """

    files: Mapping[str, bytes]
    config: Mapping[str, Any]


def tokenizer_files(header: GgufHeader, config: Mapping[str, Any]) -> TokenizerFiles:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a file.

    Args:
        header: Of the file.
        config: Of the model, for how many tokens it knows and how long a text may be.

    Raises:
        SourceError: If the vocabulary is missing, damaged, or of a kind that is not known.
    """
    vocabulary = read_vocabulary(header, config["vocab_size"])
    ids: dict[str, Any] = {f"{name}_id": number for name, number in vocabulary.special.items()}
    ids.pop("unk_token_id", None)
    if vocabulary.ends:
        ids["eos_token_id"] = vocabulary.ends if len(vocabulary.ends) > 1 else vocabulary.ends[0]
    return TokenizerFiles(
        files={
            # Indented, the vocabulary would be three times as long.
            "tokenizer.json": _json(_tokenizer(header, vocabulary), indent=None),
            "tokenizer_config.json": _json(
                _tokenizer_config(vocabulary, config["max_position_embeddings"]), indent=2
            ),
            "generation_config.json": _json(ids, indent=2),
        },
        config=ids,
    )


def _json(content: Mapping[str, Any], *, indent: int | None) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=indent) + "\n").encode()


def _tokenizer(header: GgufHeader, vocabulary: Vocabulary) -> dict[str, Any]:
    document = _converted(header, vocabulary)
    if vocabulary.model == "gpt2":
        _complete_byte_level(header, vocabulary, document)
    elif vocabulary.model == "llama":
        prefix = optional(header, f"{PREFIX}add_space_prefix", bool)
        _set_space_prefix(document, prefix=prefix is not False)
    # transformers' classes append the special tokens that they expect and the file does not have.
    count = len(vocabulary.tokens)
    document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["id"] < count]
    if vocabulary.add_bos or vocabulary.add_eos:
        document["post_processor"] = _template(vocabulary)
    return document


def _converted(header: GgufHeader, vocabulary: Vocabulary) -> dict[str, Any]:
    """What transformers makes of the vocabulary."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    parts: dict[str, Any] = {
        "tokenizer_type": vocabulary.model,
        "pre_tokenizer_type": vocabulary.pre,
        "tokens": vocabulary.tokens,
        "token_type": vocabulary.types,
    }
    if f"{PREFIX}merges" in header.metadata:
        parts["merges"] = _merges(header, vocabulary)
    scores = optional(header, f"{PREFIX}scores", list)
    if scores is not None:
        parts["scores"] = scores
    try:
        backend, _ = convert_gguf_tokenizer(header.architecture, parts)
        return json.loads(backend.to_str())
    # tokenizers raises bare `Exception`, and what it says is all there is to say.
    except Exception as error:
        raise mismatch(
            header.path,
            f"{PREFIX}model",
            f"{vocabulary.model!r} with {len(vocabulary.tokens)} tokens",
            f"a vocabulary that transformers can convert ({first_line(error, named=True)})",
        ) from error


def _merges(header: GgufHeader, vocabulary: Vocabulary) -> list[str]:
    """The merges, each of which makes a token: tokenizers panics at some that make none."""
    merges = strings(header, "merges")
    known = set(vocabulary.tokens)
    # Merges are of tokens as transformers spells them.
    if vocabulary.model == "gpt2":
        known |= {spell_bytes(token) for token in vocabulary.tokens}
    elif header.architecture.startswith("gemma"):
        known |= {token.replace(" ", _SPACE) for token in vocabulary.tokens if token.isspace()}
    for merge in merges:
        if merge.replace(" ", "", 1) not in known:
            raise mismatch(header.path, f"{PREFIX}merges", repr(merge), "two parts of a token")
    return merges


def _complete_byte_level(
    header: GgufHeader, vocabulary: Vocabulary, document: dict[str, Any]
) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    pre = vocabulary.pre
    if pre in _SINGLE_DIGITS:
        document["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            ],
        }
    elif pre not in _PLAIN and pre not in GGUF_PRE_TOKENIZER_SPLITS:
        _logger.warning(
            "%s: %spre: %r is not known, so text is cut into pieces as for GPT-2, which may not "
            "be what the model has learned",
            header.path,
            PREFIX,
            pre,
        )
    if pre in _COMPOSED:
        document["normalizer"] = {"type": "NFC"}
    if pre in WHOLE_PIECES:
        document["model"]["ignore_merges"] = True
    _restore_special(vocabulary, document)


def _restore_special(vocabulary: Vocabulary, document: dict[str, Any]) -> None:
    """Make special tokens whole that transformers takes for text, such as DeepSeek's.

    It respells every token that has a character outside of the byte alphabet; but a special token
    is matched in the text itself, so its own spelling has to stay.
    """
    spelled: dict[str, int] = document["model"]["vocab"]
    respelled = [
        (number, token, kind)
        for number, (token, kind) in enumerate(
            zip(vocabulary.tokens, vocabulary.types, strict=True)
        )
        if kind in (CONTROL, USER_DEFINED) and token not in spelled
    ]
    if not respelled:
        return
    spelling = {number: token for token, number in spelled.items()}
    added: dict[int, Any] = {entry["id"]: entry for entry in document["added_tokens"]}
    merged = {part for merge in document["model"]["merges"] for part in (*merge, "".join(merge))}
    for number, token, kind in respelled:
        # A merge needs the spelling, and then text that is spelled so becomes the token anyway.
        spelled_as = spelling.get(number)
        if spelled_as in merged:
            continue
        if spelled_as is not None:
            del spelled[spelled_as]
        spelled[token] = number
        added[number] = _added_token(number, token, special=kind == CONTROL)
    document["added_tokens"] = [added[number] for number in sorted(added)]


def _added_token(number: int, token: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _set_space_prefix(document: dict[str, Any], *, prefix: bool) -> None:
    """Write spaces as sentencepiece and llama.cpp do.

    transformers puts a space before a text that has none; sentencepiece puts one before every
    text, or before none if `add_space_prefix` says so, which transformers does not read.
    """
    pre_tokenizer: dict[str, Any] | None = document["pre_tokenizer"]
    if pre_tokenizer is None or pre_tokenizer["type"] != "Metaspace":
        return
    document["pre_tokenizer"] = None
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if prefix:
        before = {"type": "Prepend", "prepend": _SPACE}
        document["normalizer"] = {"type": "Sequence", "normalizers": [before, spaces]}
        return
    document["normalizer"] = spaces
    decoders = document["decoder"]["decoders"]
    document["decoder"]["decoders"] = [entry for entry in decoders if entry["type"] != "Strip"]


def _template(vocabulary: Vocabulary) -> dict[str, Any]:
    """A post-processor that puts BOS before and EOS after a text, as the file asks for."""
    names = {"bos_token": vocabulary.add_bos, "eos_token": vocabulary.add_eos}
    texts = {
        name: vocabulary.tokens[vocabulary.special[name]]
        for name, wanted in names.items()
        if wanted
    }

    def piece(sequence: str, number: int) -> list[dict[str, Any]]:
        around = {
            name: [{"SpecialToken": {"id": text, "type_id": number}}]
            for name, text in texts.items()
        }
        middle = [{"Sequence": {"id": sequence, "type_id": number}}]
        return [*around.get("bos_token", []), *middle, *around.get("eos_token", [])]

    return {
        "type": "TemplateProcessing",
        "single": piece("A", 0),
        "pair": [*piece("A", 0), *piece("B", 1)],
        "special_tokens": {
            text: {"id": text, "ids": [vocabulary.special[name]], "tokens": [text]}
            for name, text in texts.items()
        },
    }


def _tokenizer_config(vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        # The class that takes tokenizer.json as it is; the models' own rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        **{name: vocabulary.tokens[number] for name, number in vocabulary.special.items()},
    }
    if vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    return config
