"""Requests that a server has to refuse, each with the one right answer."""

import random
from collections.abc import Callable
from typing import Any, Final

from jang_proto.runtime.v1 import runtime_pb2 as pb
from service.plans import (
    INVALID_FIELD,
    INVALID_METADATA,
    QUEUE_FULL,
    TOO_LARGE,
    UNIMPLEMENTED,
    Plan,
    Served,
)

# A change to a sound request for text, by what is wrong with it then.
_FIELDS: Final[dict[str, Callable[[pb.GenerateRequest], object]]] = {
    "no prompt": lambda request: request.ClearField("prompt"),
    "no tokens": lambda request: request.prompt.token_ids.SetInParent(),
    "no messages": lambda request: request.prompt.chat.SetInParent(),
    "a token above all": lambda request: request.prompt.token_ids.ids.append(2**32 - 1),
    "temperature": lambda request: _set(request.sampling, "temperature", 101.0),
    "temperature that is no number": lambda request: _set(
        request.sampling, "temperature", float("nan")
    ),
    "top_p": lambda request: _set(request.sampling, "top_p", 0.0),
    "top_k": lambda request: _set(request.sampling, "top_k", 10**6),
    "min_p": lambda request: _set(request.sampling, "min_p", -0.1),
    "repetition_penalty": lambda request: _set(request.sampling, "repetition_penalty", 0.0),
    "bias of no token": lambda request: request.sampling.logit_bias.update({2**31: 1.0}),
    "bias": lambda request: request.sampling.logit_bias.update({3: 1e6}),
    "max_tokens of none": lambda request: _set(request.stopping, "max_tokens", 0),
    "max_tokens": lambda request: _set(request.stopping, "max_tokens", 2**31),
    "an empty stop string": lambda request: request.stopping.stop_strings.append(""),
    "stop strings": lambda request: request.stopping.stop_strings.extend(["x"] * 17),
    "stop tokens": lambda request: request.stopping.stop_token_ids.extend([3] * 65),
    "logprobs": lambda request: _set(request.logprobs, "output", 21),
}
_METADATA: Final = (
    (("x-request-id", "two words"),),
    (("x-request-id", "x" * 129),),
    (("x-request-id", ""),),
    (("x-request-id", "one"), ("x-request-id", "two")),
)


def malformed(chance: random.Random, name: str, served: Served) -> Plan:
    """One of them."""
    kind = chance.choice(("field", "field", "field", "bytes", "metadata", "long", "other", "size"))
    metadata = (("x-request-id", name),)
    match kind:
        case "field":
            what = chance.choice(tuple(_FIELDS))
            message = pb.GenerateRequest(prompt=pb.Prompt(text="a"))
            _FIELDS[what](message)
            return _refused(name, "Generate", message, INVALID_FIELD)
        case "bytes":
            # An unfinished field: no message of any kind.
            broken = b"\x0a" + bytes([200, 1]) + chance.randbytes(chance.randint(0, 100))
            method = chance.choice(("Generate", "GenerateStream", "Score", "Tokenize", "Logits"))
            return _refused(name, method, broken, INVALID_FIELD)
        case "metadata":
            message = pb.GenerateRequest(prompt=pb.Prompt(text="a"))
            values = chance.choice(_METADATA)
            return _refused("", "Generate", message, INVALID_METADATA, values)
        case "long":
            # Counted only once it is tokens, so it has to find a place in the queue.
            text = "a" * (served.max_prompt_tokens + chance.randint(1, 5000))
            message = pb.GenerateStreamRequest(prompt=pb.Prompt(text=text))
            return _refused(name, "GenerateStream", message, INVALID_FIELD, None, QUEUE_FULL)
        case "other":
            return _other(chance, name)
        case _:
            message = pb.TokenizeRequest(prompt=pb.Prompt(text="a" * served.max_message_bytes))
            allowed = frozenset({TOO_LARGE})
            return Plan(
                name, "malformed", "Tokenize", message, metadata, allowed, reaches_service=False
            )


def _other(chance: random.Random, name: str) -> Plan:
    """Something wrong with calls that generate no text."""
    prompt = pb.Prompt(text="a")
    requests: list[tuple[str, Any]] = [
        ("Score", pb.ScoreRequest(context=prompt)),
        ("Score", pb.ScoreRequest(context=prompt, continuations=[pb.Continuation()])),
        ("Logits", pb.LogitsRequest(prompt=prompt, positions=[1, 0])),
        ("Detokenize", pb.DetokenizeRequest(token_ids=[2**31])),
        ("ApplyChatTemplate", pb.ApplyChatTemplateRequest()),
        ("Abort", pb.AbortRequest()),
        ("NoSuchMethod", pb.AbortRequest()),
    ]
    method, message = chance.choice(requests)
    if method == "NoSuchMethod":
        metadata = (("x-request-id", name),)
        return Plan(
            name,
            "malformed",
            method,
            message,
            metadata,
            frozenset({UNIMPLEMENTED}),
            reaches_service=False,
        )
    return _refused(name, method, message, INVALID_FIELD)


def _refused(
    name: str,
    method: str,
    message: Any,
    outcome: str,
    metadata: tuple[tuple[str, str], ...] | None = None,
    *others: str,
) -> Plan:
    given = (("x-request-id", name),) if metadata is None else metadata
    return Plan(name, "malformed", method, message, given, frozenset({outcome, *others}))


def _set(message: Any, field: str, value: float) -> None:
    setattr(message, field, value)
