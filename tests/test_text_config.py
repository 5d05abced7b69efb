"""A config whose `text_config` is no object, for everything that asks for the vocabulary."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import convert_to, write_tiny_source
from jang_format import read_directory
from jang_quant import Request, open_source, prepare
from jang_quant._calibration.run import _vocabulary
from jang_runtime import ModelError
from jang_runtime._bench import vocabulary_size
from jang_runtime._model import load


@pytest.mark.parametrize("text_config", ["llama", [{"vocab_size": 5}]])
def test_a_text_config_that_is_no_object_is_passed_over(text_config: Any, tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", text_config=text_config)
    opened = open_source(str(source))
    assert _vocabulary(opened) == 384
    assert prepare(opened, Request(fit_memory="1GB")).memory is not None
    out = convert_to(source, tmp_path / "out", "4M")
    assert vocabulary_size(read_directory(out)) == 384
    assert load(out).info.vocabulary_size == 384


@pytest.mark.parametrize(
    ("config", "found"), [({}, "nothing"), ({"text_config": {"vocab_size": "x"}}, "'x'")]
)
def test_a_config_without_a_vocabulary_is_named_with_its_file(
    config: dict[str, Any], found: str, tiny_model: Path
) -> None:
    directory = replace(read_directory(tiny_model), config=config)
    message = f"{tiny_model}/config.json: vocab_size: found {found}, expected 1 or more"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        vocabulary_size(directory)
