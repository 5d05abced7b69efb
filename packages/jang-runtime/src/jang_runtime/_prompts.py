"""Tokens of prompts and of continuations, and back."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, cast

import jinja2

from jang_runtime._errors import InvalidRequestError, NoChatTemplateError
from jang_runtime._requests import (
    ChatPrompt,
    GenerationRequest,
    LogitsRequest,
    Prompt,
    Request,
    ScoreRequest,
    TextPrompt,
    TokenPrompt,
)

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

# The way of a request to its tokens, one text a step.
Steps: TypeAlias = Generator[None, None, Request]


def in_tokens(tokenizer: "TokenizerWrapper", request: Request) -> Request:
    """The same request with tokens in place of texts and conversations.

    Raises:
        InvalidRequestError: If a text has none, or the model's template refuses the conversation.
    """
    steps = in_steps(tokenizer, request)
    while (done := advance(steps)) is None:
        pass
    return done


def in_steps(tokenizer: "TokenizerWrapper", request: Request) -> Steps:
    """`in_tokens` in steps of one text each, for others to come between."""
    match request:
        case GenerationRequest() | LogitsRequest():
            ids = tokenize(tokenizer, "prompt", request.prompt)
            return replace(request, prompt=TokenPrompt(tuple(ids)))
        case ScoreRequest():
            return (yield from _score_in_steps(tokenizer, request))


def advance(steps: Steps) -> Request | None:
    """Take one step; the request in tokens once it was the last one.

    Raises:
        InvalidRequestError: As `in_tokens`.
    """
    try:
        next(steps)
    except StopIteration as end:
        return cast(Request, end.value)
    return None


def is_in_tokens(request: Request) -> bool:
    """Whether a request has nothing that would have to be tokenized."""
    match request:
        case GenerationRequest() | LogitsRequest():
            return isinstance(request.prompt, TokenPrompt)
        case ScoreRequest():
            return isinstance(request.context, TokenPrompt) and not any(
                isinstance(each, str) for each in request.continuations
            )


def tokenize(tokenizer: "TokenizerWrapper", field: str, prompt: Prompt) -> list[int]:
    """The tokens of a prompt that stands in a field of a request.

    Raises:
        InvalidRequestError: If it has none, or the model's template refuses the conversation.
    """
    match prompt:
        case TokenPrompt(ids):
            return list(ids)
        case TextPrompt(text, add_special_tokens):
            ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
            if not ids:
                raise InvalidRequestError(f"{field}.text", "no tokens", "at least one")
            return ids
        case ChatPrompt():
            # The template writes the special tokens that it wants.
            text = conversation_text(tokenizer, f"{field}.chat", prompt, add_generation_prompt=True)
            return tokenizer.encode(text, add_special_tokens=False)


def conversation_text(
    tokenizer: "TokenizerWrapper", field: str, chat: ChatPrompt, add_generation_prompt: bool
) -> str:
    """What the model reads of a conversation that stands in a field of a request.

    Raises:
        InvalidRequestError: If the model has no template, or its template refuses the conversation.
    """
    if not tokenizer.has_chat_template:
        raise NoChatTemplateError(field)
    turns = [{"role": turn.role, "content": turn.content} for turn in chat.messages]
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        )
    except jinja2.TemplateError as error:
        raise InvalidRequestError(
            field, f"{error}", "a conversation that the model's template accepts"
        ) from error


def decode(
    tokenizer: "TokenizerWrapper", ids: Sequence[int], skip_special_tokens: bool = True
) -> str:
    """The text of tokens, by default without marks such as the end of text."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )


def _score_in_steps(
    tokenizer: "TokenizerWrapper", request: ScoreRequest
) -> Generator[None, None, ScoreRequest]:
    """A text after a text is tokenized as lm-evaluation-harness does it.

    Spaces at the end of the context count to the continuation, which is what both together have
    beyond the context's tokens.
    """
    prompt, spaces = request.context, ""
    if isinstance(prompt, TextPrompt):
        bare = prompt.text.rstrip()
        spaces = prompt.text[len(bare) :]
        # A context of nothing but spaces is one all the same.
        if bare and all(isinstance(each, str) for each in request.continuations):
            prompt = TextPrompt(bare, prompt.add_special_tokens)
        else:
            spaces = ""
    context = tokenize(tokenizer, "context", prompt)
    continuations: list[tuple[int, ...]] = []
    for index, continuation in enumerate(request.continuations):
        if not isinstance(continuation, str):
            continuations.append(continuation)
            continue
        yield
        if isinstance(prompt, TextPrompt):
            # From the beginning: where the context's last token ends can depend on all before it.
            both = TextPrompt(prompt.text + spaces + continuation, prompt.add_special_tokens)
            ids = tuple(tokenize(tokenizer, "context", both)[len(context) :])
        else:
            ids = tuple(tokenizer.encode(continuation, add_special_tokens=False))
        if not ids:
            field = f"continuations[{index}]"
            raise InvalidRequestError(field, f"{continuation!r}, no tokens", "at least one")
        continuations.append(ids)
    return ScoreRequest(TokenPrompt(tuple(context)), tuple(continuations))
