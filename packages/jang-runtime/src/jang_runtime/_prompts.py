"""Tokens of prompts and of continuations."""

import jinja2

from jang_runtime._errors import InvalidRequestError
from jang_runtime._model import LoadedModel
from jang_runtime._requests import ChatPrompt, Prompt, ScoreRequest, TextPrompt, TokenPrompt


def tokenize(loaded: LoadedModel, prompt: Prompt) -> list[int]:
    """The prompt's tokens.

    Raises:
        InvalidRequestError: If it has none, or the model's template refuses the conversation.
    """
    tokenizer = loaded.tokenizer
    match prompt:
        case TokenPrompt(ids):
            return list(ids)
        case TextPrompt(text, add_special_tokens):
            ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
            if not ids:
                raise InvalidRequestError("prompt.text", "no tokens", "at least one")
            return ids
        case ChatPrompt(messages):
            if not tokenizer.has_chat_template:
                raise InvalidRequestError(
                    "prompt.chat", "a conversation", "text: this model has no chat template"
                )
            turns = [{"role": turn.role, "content": turn.content} for turn in messages]
            try:
                return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True))
            except jinja2.TemplateError as error:
                raise InvalidRequestError(
                    "prompt.chat", f"{error}", "a conversation that the model's template accepts"
                ) from error


def decode(loaded: LoadedModel, ids: list[int]) -> str:
    """The text of tokens, without marks such as the end of text."""
    return loaded.tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def tokenize_continuations(
    loaded: LoadedModel, request: ScoreRequest
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Tokens of a request's context and of each continuation.

    A text after a text is tokenized as lm-evaluation-harness does it: spaces at the end of the
    context count to the continuation, which is what both together have beyond the context's tokens.

    Raises:
        InvalidRequestError: If the context or a continuation has none.
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
    context = tokenize(loaded, prompt)
    continuations: list[tuple[int, ...]] = []
    for continuation in request.continuations:
        if not isinstance(continuation, str):
            ids = continuation
        elif isinstance(prompt, TextPrompt):
            both = TextPrompt(prompt.text + spaces + continuation, prompt.add_special_tokens)
            ids = tuple(tokenize(loaded, both)[len(context) :])
        else:
            ids = tuple(loaded.tokenizer.encode(continuation, add_special_tokens=False))
        if not ids:
            raise InvalidRequestError("continuations", f"{continuation!r}, no tokens", "at least 1")
        continuations.append(ids)
    return context, continuations
