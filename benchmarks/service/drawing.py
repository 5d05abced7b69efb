"""Random requests of every kind, sound and malformed, from a seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from jang_proto.runtime.v1 import runtime_pb2 as pb
from service.malformed import malformed
from service.plans import (
    CACHE_TOO_SMALL,
    CANCELLED,
    DEADLINE,
    IN_USE,
    OUTCOMES_OF_ABORT,
    QUEUE_FULL,
    SLOW_READER,
    Ending,
    Plan,
    Served,
    outcomes_of_generation,
)

MALFORMED_SHARE: Final = 0.05
CANCELLED_SHARE: Final = 0.30
DEADLINE_SHARE: Final = 0.15
SLOW_SHARE: Final = 0.05
SHARED_NAME_SHARE: Final = 0.02
# Of the requests that are read by nobody for a while: long texts with many log-probabilities.
STALLED_IN: Final = 250
# Requests that are asked alone first, and how many of the others are one of them.
_TWINS: Final = 24
_TWIN_SHARE: Final = 0.25
_MOST_TOKENS: Final = 32
_STALLED_TOKENS: Final = 3000
_LONGEST_WORD: Final = 48
_STOPS: Final = ("e", "a", "t", "o", " ", ". ", "the", "\n", "zz")
_WEIGHTS: Final = {
    "GenerateStream": 40,
    "Generate": 25,
    "Score": 9,
    "Logits": 6,
    "Tokenize": 6,
    "Detokenize": 4,
    "ApplyChatTemplate": 4,
    "GetModelInfo": 3,
    "GetServerInfo": 3,
}
_GENERATIONS: Final = ("GenerateStream", "Generate")
# They tell what the server knows, and need no place in its queue.
_PLACELESS: Final = ("GetModelInfo", "GetServerInfo")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz ,.éß日"
_FEW: Final = 10


def _texts(count: int) -> tuple[str, ...]:
    """Texts of random letters, the same every time."""
    chance = random.Random(0)
    lengths = [chance.randint(1, _LONGEST_WORD) for _ in range(count)]
    return tuple("".join(chance.choices(_LETTERS, k=length)) for length in lengths)


# Not more of them, nor of the texts made of two: tokenizers keeps the tokens of the last 10,000
# words, which look like a leak until they are full, and to the tiny one a whole text is a word.
_TEXTS: Final = _texts(300)
_CHATS: Final = tuple(
    pb.Chat(messages=[pb.ChatMessage(role="user", content=text) for text in _TEXTS[n : n + turns]])
    for n in range(100)
    for turns in [1 + n % 3]
)


def plans(count: int, seed: int, served: Served) -> Iterator[Plan]:
    """The requests of a load test."""
    chance = random.Random(seed)
    known = twins(served)
    for number in range(count):
        name = f"load-{number:05}"
        if chance.random() < MALFORMED_SHARE:
            yield malformed(chance, name, served)
        elif number % STALLED_IN == STALLED_IN // 2:
            yield _stalled(name, served)
        else:
            yield _changed(chance, _sound(chance, name, served, known))


def twins(served: Served) -> list[pb.GenerateRequest]:
    """Requests whose answers are known before the load begins; the same for every seed."""
    chance = random.Random(0)
    found: list[pb.GenerateRequest] = []
    while len(found) < _TWINS:
        drawn = generation(chance, served)
        drawn.sampling.seed = len(found)
        found.append(drawn)
    return found


def generation(chance: random.Random, served: Served) -> pb.GenerateRequest:
    """A sound request for text."""
    request = pb.GenerateRequest(
        prompt=prompt(chance),
        sampling=pb.Sampling(
            temperature=chance.choice((0.0, 0.7, 1.0, 1.5)),
            top_p=chance.choice((1.0, 1.0, 0.9)),
            top_k=chance.choice((0, 0, 40)),
            seed=chance.randrange(2**64),
            repetition_penalty=chance.choice((1.0, 1.0, 1.2)),
        ),
        stopping=pb.Stopping(
            max_tokens=chance.randint(1, _MOST_TOKENS),
            stop_strings=chance.sample(_STOPS, 3) if chance.random() < 0.2 else (),
            stop_token_ids=[chance.randrange(served.vocabulary_size)]
            if chance.random() < 0.1
            else (),
            ignore_eos=chance.random() < 0.5,
        ),
    )
    if chance.random() < 0.15:
        request.logprobs.output = chance.randint(0, 20)
    if chance.random() < 0.05:
        request.logprobs.prompt = chance.randint(0, 20)
    return request


def prompt(chance: random.Random) -> pb.Prompt:
    """A text, tokens or a conversation."""
    kind = chance.random()
    if kind < 0.5:
        return pb.Prompt(text=chance.choice(_TEXTS))
    if kind < 0.8:
        return pb.Prompt(token_ids=pb.TokenIds(ids=_tokens(chance, _LONGEST_WORD)))
    return pb.Prompt(chat=chance.choice(_CHATS))


def _sound(
    chance: random.Random, name: str, served: Served, known: Sequence[pb.GenerateRequest]
) -> Plan:
    """A request that nothing is wrong with, and that nobody ends."""
    (method,) = chance.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))
    metadata = (("x-request-id", name),)
    if method not in _GENERATIONS:
        allowed = {"OK COMPLETE" if method == "Logits" else "OK"}
        allowed |= {QUEUE_FULL} if method not in _PLACELESS else set()
        message = _measuring(chance, method)
        return Plan(name, "plain", method, message, metadata, frozenset(allowed))
    twin = chance.randrange(len(known)) if chance.random() < _TWIN_SHARE else None
    request = generation(chance, served) if twin is None else known[twin]
    allowed = outcomes_of_generation(request.stopping) | {QUEUE_FULL}
    message = (
        request
        if method == "Generate"
        else pb.GenerateStreamRequest.FromString(request.SerializeToString())
    )
    return Plan(name, "plain", method, message, metadata, allowed, twin=twin)


def _measuring(chance: random.Random, method: str) -> Any:
    """A sound request of a call that generates no text."""
    match method:
        case "Score":
            return _score(chance)
        case "Logits":
            return pb.LogitsRequest(prompt=prompt(chance))
        case "Tokenize":
            return pb.TokenizeRequest(prompt=prompt(chance))
        case "Detokenize":
            return pb.DetokenizeRequest(token_ids=_tokens(chance, 200))
        case "ApplyChatTemplate":
            return pb.ApplyChatTemplateRequest(chat=chance.choice(_CHATS))
        case "GetModelInfo":
            return pb.GetModelInfoRequest()
        case _:
            return pb.GetServerInfoRequest()


def _changed(chance: random.Random, plan: Plan) -> Plan:
    """The request with an early end, a deadline, a slow reader, or a name that others have too."""
    if chance.random() < CANCELLED_SHARE / (1 - MALFORMED_SHARE):
        plan = _ended(chance, plan)
    elif plan.method in _GENERATIONS and chance.random() < SHARED_NAME_SHARE:
        metadata = (("x-request-id", "shared"),)
        plan = replace(plan, group="name in use", name="shared", metadata=metadata)
        plan = replace(plan, allowed=plan.allowed | {IN_USE})
    if chance.random() < DEADLINE_SHARE:
        # Around what a request takes.
        seconds = 10 ** chance.uniform(-3, 0.5)
        group = "deadline" if plan.group == "plain" else plan.group
        plan = replace(plan, group=group, deadline=seconds, allowed=plan.allowed | {DEADLINE})
    if plan.method in ("GenerateStream", "Logits") and chance.random() < SLOW_SHARE:
        group = "slow reader" if plan.group == "plain" else plan.group
        plan = replace(plan, group=group, reader="slow")
    return plan


def _ended(chance: random.Random, plan: Plan) -> Plan:
    by_abort = plan.method in OUTCOMES_OF_ABORT and chance.random() < 0.4
    streams = plan.method in ("GenerateStream", "Logits")
    events = chance.randint(int(by_abort), 12) if streams and chance.random() < 0.5 else None
    ending = Ending("abort" if by_abort else "client", events, 10 ** chance.uniform(-4, -0.3))
    if by_abort:
        allowed = plan.allowed | {OUTCOMES_OF_ABORT[plan.method]}
        return replace(plan, group="aborted", ending=ending, allowed=allowed)
    allowed = plan.allowed | {CANCELLED}
    return replace(plan, group="cancelled by client", ending=ending, allowed=allowed)


def _stalled(name: str, served: Served) -> Plan:
    """More than the server keeps for one who reads nothing, where the context is long enough."""
    message = pb.GenerateStreamRequest(
        prompt=pb.Prompt(text="a"),
        stopping=pb.Stopping(
            max_tokens=min(_STALLED_TOKENS, served.context_length - 1), ignore_eos=True
        ),
        logprobs=pb.Logprobs(output=20),
    )
    allowed = outcomes_of_generation(message.stopping) | {SLOW_READER, QUEUE_FULL, CACHE_TOO_SMALL}
    metadata = (("x-request-id", name),)
    return Plan(
        name, "stalled reader", "GenerateStream", message, metadata, allowed, reader="stalled"
    )


def _score(chance: random.Random) -> pb.ScoreRequest:
    ends: list[Any] = []
    for _ in range(chance.randint(1, 6)):
        if chance.random() < 0.5:
            ends.append(pb.Continuation(text=chance.choice(_TEXTS[:_FEW])))
        else:
            ids = _tokens(chance, 6)
            ends.append(pb.Continuation(token_ids=pb.TokenIds(ids=ids)))
    context = prompt(chance)
    if context.text:
        context.text = chance.choice(_TEXTS[:_FEW])
    return pb.ScoreRequest(context=context, continuations=ends)


def _tokens(chance: random.Random, longest: int) -> list[int]:
    # Without the marks of begin and end.
    return [chance.randrange(2, 258) for _ in range(chance.randint(1, longest))]
