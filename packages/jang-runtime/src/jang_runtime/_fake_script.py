"""What the fake server was told to say, and what it takes from a request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import InvalidRequestError, NoChatTemplateError
from jang_runtime._fake_model import chat_text, check_tokens, text_of, tokens_of
from jang_runtime._requests import ChatMessage, ChatPrompt, check_chat


@dataclass(frozen=True)
class Script:
    """What the fake server says; see `FakeServer` for the fields."""

    answers: str | Mapping[str, str] | Callable[[str], str]
    scores: Callable[[str, str], float] | None
    delay: float
    delta_delay: float
    model_info: pb.GetModelInfoResponse

    def answer(self, question: str) -> str:
        """The text for a prompt.

        Raises:
            LookupError: If there is none.
        """
        if isinstance(self.answers, str):
            return self.answers
        if callable(self.answers):
            return self.answers(question)
        if question not in self.answers:
            raise LookupError(f"the fake server has no answer to {question!r}")
        return self.answers[question]

    def prompt_tokens(self, field: str, prompt: pb.Prompt) -> list[int]:
        """The tokens of a prompt; no mark is added to text.

        Raises:
            InvalidRequestError: If there are none.
        """
        match prompt.WhichOneof("input"):
            case "text":
                if not prompt.text:
                    raise InvalidRequestError(f"{field}.text", "no tokens", "at least one")
                return tokens_of(prompt.text)
            case "token_ids":
                check_tokens(f"{field}.token_ids", prompt.token_ids.ids)
                if not prompt.token_ids.ids:
                    raise InvalidRequestError(f"{field}.token_ids", "no tokens", "at least one")
                return list(prompt.token_ids.ids)
            case "chat":
                return tokens_of(self.chat_text(f"{field}.chat", prompt.chat, True))
            case None:
                raise InvalidRequestError(field, "none", "one of text, token_ids, chat")

    def chat_text(self, field: str, chat: pb.Chat, add_generation_prompt: bool) -> str:
        """A conversation as one text.

        Raises:
            InvalidRequestError: If nothing or nobody is in it, or the model takes none.
        """
        if not self.model_info.has_chat_template:
            raise NoChatTemplateError(field)
        turns = [ChatMessage(turn.role, turn.content) for turn in chat.messages]
        check_chat(field, ChatPrompt(tuple(turns)))
        return chat_text(chat, add_generation_prompt)


def question_of(prompt: pb.Prompt) -> str:
    """What a script gets to see of a prompt: its text, or what was said last."""
    match prompt.WhichOneof("input"):
        case "chat":
            return prompt.chat.messages[-1].content
        case "token_ids":
            return text_of(prompt.token_ids.ids, skip_special_tokens=True)
        case _:
            return prompt.text


def continuation_tokens(field: str, continuation: pb.Continuation) -> list[int]:
    """The tokens of a continuation by itself.

    Raises:
        InvalidRequestError: If there are none.
    """
    if continuation.WhichOneof("input") is None:
        raise InvalidRequestError(field, "none", "one of text, token_ids")
    if continuation.WhichOneof("input") == "token_ids":
        check_tokens(f"{field}.token_ids", continuation.token_ids.ids)
    tokens = list(continuation.token_ids.ids) or tokens_of(continuation.text)
    if not tokens:
        raise InvalidRequestError(field, "nothing", "text or tokens")
    return tokens
