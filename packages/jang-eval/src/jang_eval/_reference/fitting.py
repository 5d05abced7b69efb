"""Whether a server can be compared with a reference at all."""

from jang_eval._errors import DataError
from jang_eval._model_info import ModelInfo
from jang_eval._target import Target


def check_vocabulary(target: Target, reference: ModelInfo) -> None:
    """Raise DataError if a server's model has another vocabulary than the reference."""
    found, expected = target.model_info().vocabulary_size, reference.vocabulary_size
    if found != expected:
        raise DataError(
            f"server {target.address}: found a vocabulary of {found} tokens, "
            f"expected {expected} as the reference has"
        )


def check_tokens(target: Target, found: str, expected: str, cut: str) -> None:
    """Raise DataError if a server's tokens are not the reference's.

    Args:
        target: The server.
        found: Digest of its tokens.
        expected: Digest of the reference's.
        cut: What is cut into tokens: "text" or "prompts".
    """
    if found != expected:
        raise DataError(
            f"server {target.address}: found other tokens than the reference has, "
            f"expected the same {cut} and tokenizer"
        )
