"""A server as the reference to compare with, and its logits."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from jang_eval._divergence import Expected, FullRows, Ids
from jang_eval._errors import TargetError
from jang_eval._prompts import Prompt, prompts_digest, tokenize_prompts
from jang_eval._target import Target
from jang_eval._windows import Text, Window, tokenize, tokens_digest


class ServerReference:
    """A reference that is asked while it is compared with."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.model = target.model_info()

    @property
    def settings(self) -> dict[str, str]:
        """What results say of it."""
        return {"reference": self.model.name, "reference digest": self.model.digest}

    def tokens_digest(self, texts: Sequence[Text]) -> str:
        """Ask for its tokens."""
        return tokens_digest(tokenize(self._target, texts))

    def expected(self, window: Window) -> Expected:
        """Ask for a window's logits."""
        return FullRows(all_rows(self._target, window))

    def prompts_digest(self, texts: Sequence[str]) -> str:
        """Ask for its tokens."""
        return prompts_digest(tokenize_prompts(self._target, texts))

    def logits(self, prompt: Prompt) -> npt.NDArray[np.floating]:
        """Ask for a prompt's logits."""
        return prompt_rows(self._target, prompt)


def rows_of(target: Target, window: Window) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """A server's logits at the positions of a window that count, some at a time.

    Raises:
        TargetError: They are not as many as were asked for, or no numbers.
    """
    asked = tuple(range(window.first - 1, len(window.tokens) - 1))
    return checked_rows(target, window.id, window.tokens, asked)


def checked_rows(
    target: Target, name: str, tokens: tuple[int, ...], asked: tuple[int, ...]
) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """A server's logits after some of the tokens of a text; see `rows_of`."""
    done = 0
    for positions, rows in target.logits(tokens, asked):
        if positions != asked[done : done + len(rows)] or not positions:
            raise TargetError(f"server {target.address}: found logits of other positions")
        # Minus infinity is a token that can never come.
        if np.isnan(rows).any() or np.isposinf(rows).any():
            raise TargetError(
                f"server {target.address}: found logits that are no numbers in {name}"
            )
        yield slice(done, done + len(rows)), rows
        done += len(rows)
    if done != len(asked):
        raise TargetError(
            f"server {target.address}: found logits of {done} positions, expected {len(asked)}"
        )


def all_rows(target: Target, window: Window) -> npt.NDArray[np.float32]:
    """A server's logits at all positions of a window that count, `[n, vocabulary]`."""
    found: npt.NDArray[np.float32] | None = None
    for at, rows in rows_of(target, window):
        if found is None:
            # Not all parts first and then the whole, which would be twice as much.
            found = np.empty((window.scored, rows.shape[1]), np.float32)
        found[at] = rows
    # There is a row for each token that counts, or `rows_of` has said so.
    return np.empty((0, 0), np.float32) if found is None else found


def prompt_rows(target: Target, prompt: Prompt) -> npt.NDArray[np.float32]:
    """A server's logits after each token of a prompt, `[tokens, vocabulary]`.

    Raises:
        TargetError: See `rows_of`; or some are infinite.
    """
    asked = tuple(range(len(prompt.tokens)))
    name = f"prompt {prompt.id}"
    parts = [rows for _, rows in checked_rows(target, name, prompt.tokens, asked)]
    rows = np.concatenate(parts)
    if not np.isfinite(rows).all():
        raise TargetError(f"server {target.address}: found infinite logits of {name}")
    return rows


def following(window: Window) -> Ids:
    """The tokens that count: what comes after each position."""
    return np.array(window.tokens[window.first :], np.uint32)


def following_prompt(prompt: Prompt, rows: npt.NDArray[np.float32]) -> Ids:
    """What comes after each token of a prompt; after the last one what is most likely."""
    return np.array([*prompt.tokens[1:], int(rows[-1].argmax())], np.uint32)
