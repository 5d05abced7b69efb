"""What a reference to compare with is: a server, or a file of what a server said."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from jang_eval._divergence import Expected
from jang_eval._model_info import ModelInfo
from jang_eval._prompts import Prompt
from jang_eval._windows import Text, Window


class Reference(Protocol):
    """What models are compared with."""

    @property
    def model(self) -> ModelInfo:
        """Which model it is."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What results say of it."""
        ...

    def tokens_digest(self, texts: Sequence[Text]) -> str:
        """`tokens_digest` of its tokens of texts, or of the texts that it is of."""
        ...

    def expected(self, window: Window) -> Expected:
        """What it says of the positions of a window; called in several threads at once."""
        ...


class PromptReference(Protocol):
    """What logits after the tokens of prompts are compared with."""

    @property
    def model(self) -> ModelInfo:
        """Which model it is."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What results say of it."""
        ...

    def prompts_digest(self, texts: Sequence[str]) -> str:
        """`prompts_digest` of its tokens of prompts, or of the prompts that it is of."""
        ...

    def logits(self, prompt: Prompt) -> npt.NDArray[np.floating]:
        """Its logits after each token, `[tokens, vocabulary]`, up to a constant in each row."""
        ...
