"""The model's tokenizer in threads of its own: long texts hold up neither engine nor loop."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jang_runtime._model import load_tokenizer
from jang_runtime._prompts import (
    advance,
    conversation_text,
    decode,
    in_steps,
    is_in_tokens,
    tokenize,
)
from jang_runtime._requests import ChatPrompt, Prompt, Request, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_Result = TypeVar("_Result")


class Texts:
    """Turns text into tokens and back.

    Requests to the engine have a thread, and calls that want texts or tokens and no more have
    another: to those texts of any length come. Each has a tokenizer, and neither has the engine's:
    tokenizers of transformers are not made for two threads.

    Args:
        path: The model's directory.

    Raises:
        ModelError: If no tokenizer can be made of it.
    """

    def __init__(self, path: Path) -> None:
        self._tokenizer = load_tokenizer(path)
        self._longest = max(len(token) for token in self._tokenizer.get_vocab())
        self._requests = _Worker("jang-texts", lambda: self._tokenizer)
        # Many servers are never asked for these; a tokenizer takes up to a second and 100 MB.
        self._others = _Worker("jang-other-texts", lambda: load_tokenizer(path))

    def fewest_tokens(self, prompt: Prompt) -> int:
        """How many tokens a prompt has at least; known without making them, which takes a while."""
        match prompt:
            case TokenPrompt(ids):
                return len(ids)
            case TextPrompt(text):
                return self.fewest_tokens_of_text(text)
            case ChatPrompt(messages):
                return -(-sum(len(turn.content) for turn in messages) // self._longest)

    def fewest_tokens_of_text(self, text: str) -> int:
        """How many tokens a text has at least."""
        return -(-len(text) // self._longest)

    async def in_tokens(self, request: Request) -> Request:
        """A request with tokens in place of texts; other jobs come between any two of its texts.

        When it is cancelled, the texts that are left are not tokenized.

        Raises:
            InvalidRequestError: If that cannot be.
        """
        if is_in_tokens(request):
            return request
        steps = in_steps(self._tokenizer, request)
        while (done := await self._requests.run(lambda _: advance(steps))) is None:
            pass
        return done

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """The tokens of what stands in a request's `prompt`.

        Raises:
            InvalidRequestError: If it has none.
        """
        return await self._others.run(lambda tokenizer: tokenize(tokenizer, "prompt", prompt))

    async def detokenize(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of tokens."""
        return await self._others.run(lambda tokenizer: decode(tokenizer, ids, skip_special_tokens))

    async def conversation(
        self, chat: ChatPrompt, add_generation_prompt: bool
    ) -> tuple[str, list[int]]:
        """What the model reads of what stands in a request's `chat`, as text and as tokens.

        Raises:
            InvalidRequestError: If the model's template refuses it.
        """

        def job(tokenizer: "TokenizerWrapper") -> tuple[str, list[int]]:
            text = conversation_text(tokenizer, "chat", chat, add_generation_prompt)
            return text, tokenizer.encode(text, add_special_tokens=False)

        return await self._others.run(job)

    def close(self) -> None:
        """Drop jobs that wait and end the threads."""
        self._requests.close()
        self._others.close()


class _Worker:
    """A tokenizer and its thread, one job at a time; the tokenizer is made for the first."""

    def __init__(self, name: str, make: "Callable[[], TokenizerWrapper]") -> None:
        self._tokenizer = cache(make)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, job: "Callable[[TokenizerWrapper], _Result]") -> _Result:
        """The result of a job; one that has not begun is dropped when its caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: job(self._tokenizer()))

    def close(self) -> None:
        """Drop jobs that wait and end the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
