"""Prompts, one a line of a file, and their tokens."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jang_eval._errors import DataError
from jang_eval._target import Target
from jang_eval._windows import Tokens, tokens_digest


@dataclass(frozen=True)
class Prompt:
    """A prompt; `id` is its place in the file, from 1."""

    id: str
    text: str
    tokens: tuple[int, ...]


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a file of prompts, one a line; empty lines are passed over.

    Raises:
        DataError: The file cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found no UTF-8 ({error.reason}), expected text") from error
    prompts = tuple(line for line in lines if line.strip())
    if not prompts:
        raise DataError(f"{path}: found no prompt, expected one a line")
    return prompts


def prompts_sha256(texts: Sequence[str]) -> str:
    """Digest of prompts in their order."""
    return hashlib.sha256(json.dumps([*texts]).encode()).hexdigest()


def tokenize_prompts(target: Target, texts: Sequence[str]) -> list[Prompt]:
    """Have a server tokenize prompts, with the marks that it puts around them."""
    return [Prompt(str(n), text, target.tokenize(text)) for n, text in enumerate(texts, 1)]


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Says whether two tokenizers cut the prompts alike, as `tokens_digest` does of texts."""
    return tokens_digest([Tokens(each.id, (), each.tokens) for each in prompts])
