"""How long the parts of a request may be; asked before anything is done with each of them."""

from collections.abc import Sequence

from jang_runtime._errors import InvalidRequestError
from jang_runtime._requests import MAX_CONTINUATION_TOKENS
from jang_runtime._service.options import RequestLimits


def check_prompt_length(field: str, count: int, more: str, limits: RequestLimits) -> None:
    """Check the tokens of a prompt, context or text.

    Args:
        field: Where it stands.
        count: Its tokens.
        more: "or more " where it has so many at least, else "".
        limits: The server's.

    Raises:
        InvalidRequestError: If it is too long.
    """
    if count > limits.max_prompt_tokens:
        found, expected = f"{count} {more}tokens", f"at most {limits.max_prompt_tokens}"
        raise InvalidRequestError(field, found, expected)


def check_continuation_lengths(counts: Sequence[int], more: str, limits: RequestLimits) -> None:
    """Check the tokens of continuations, of each and of all; arguments as for a prompt.

    Raises:
        InvalidRequestError: If they are too long.
    """
    for index, count in enumerate(counts):
        if count > limits.context_length:
            found = f"{count} {more}tokens"
            expected = f"at most the context's {limits.context_length}"
            raise InvalidRequestError(f"continuations[{index}]", found, expected)
    if sum(counts) > MAX_CONTINUATION_TOKENS:
        found = f"{sum(counts)} {more}tokens together"
        raise InvalidRequestError("continuations", found, f"at most {MAX_CONTINUATION_TOKENS}")
