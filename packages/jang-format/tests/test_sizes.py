"""Sizes that config.json states of a model."""

from typing import Any

import pytest

from jang_format import InvalidFileError, text_size


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"vocab_size": 5}, 5),
        ({"text_config": {"vocab_size": 5}}, 5),
        ({"vocab_size": 7, "text_config": {"vocab_size": 5}}, 5),
        ({"vocab_size": 7, "text_config": {"vocab_size": None}}, 7),
        ({"vocab_size": 7, "text_config": {"hidden_size": 5}}, 7),
        ({"vocab_size": 7, "text_config": "gemma3_text"}, 7),
        ({"vocab_size": 7, "text_config": ["vocab_size"]}, 7),
        ({"vocab_size": 7, "text_config": None}, 7),
        ({"vocab_size": 0}, None),
        ({"text_config": []}, None),
        ({}, None),
    ],
)
def test_a_size_is_that_of_the_language_model_and_else_of_the_whole(
    config: dict[str, Any], size: int | None
) -> None:
    assert text_size(config, "vocab_size") == size


def test_of_several_names_the_first_counts() -> None:
    assert text_size({"b": 2, "a": 1}, "a", "b") == 1
    assert text_size({"b": 2}, "a", "b") == 2


@pytest.mark.parametrize("found", ["5", 5.0, -1, True, [5]])
def test_what_is_no_size_is_refused_with_what_stands_there(found: Any) -> None:
    with pytest.raises(InvalidFileError, match=r"^config.json: vocab_size: found .*, expected 1"):
        text_size({"text_config": {"vocab_size": found}}, "vocab_size")
