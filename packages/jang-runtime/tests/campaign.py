"""Random requests against one engine: lengths, seeds, cancels, stops; every one accounted for.

    uv run python packages/jang-runtime/tests/campaign.py MODEL --requests 200

prints one JSON document and ends with status 1 if anything does not add up: each request has to
get its events in order and one end, requests that differ in nothing have to get the same text
whoever ran beside them, and memory has to be back where it was.
"""

import argparse
import json
import random
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from jang_runtime import (
    Delta,
    Engine,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Logits,
    LogitsRequest,
    Logprobs,
    Sampling,
    Score,
    ScoreRequest,
    Started,
    Stopping,
    TokenPrompt,
)

STOPS = ("e", "a", "t", "o", " ", ". ", "the", "\n", "zz")


@dataclass
class Run:
    """A request, when it is to be cancelled, and what it got."""

    request: Any
    # After this many deltas, scores or logits; 0 at once; None never.
    cancel_after: int | None
    events: list[Event] = field(default_factory=list)
    ticket: Any = None
    _ticket_is_set: threading.Event = field(default_factory=threading.Event)

    def submit(self, engine: Engine, ended: "SimpleQueue[Run]") -> None:
        def listen(event: Event) -> None:
            self.events.append(event)
            results = sum(isinstance(each, Delta | Score | Logits) for each in self.events)
            if self.cancel_after and results == self.cancel_after:
                self._ticket_is_set.wait(60)
                self.ticket.cancel()
            if isinstance(event, Finished | Failed):
                ended.put(self)

        self.ticket = engine.submit(self.request, listen)
        self._ticket_is_set.set()
        if self.cancel_after == 0:
            self.ticket.cancel()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def outcome(self) -> str:
        last = self.events[-1]
        return last.reason.value if isinstance(last, Finished) else "FAILED"

    def fault(self) -> str | None:
        """What is wrong with the events, if anything."""
        if [isinstance(event, Finished | Failed) for event in self.events].count(True) != 1:
            return "not one end"
        if not isinstance(self.events[-1], Finished | Failed):
            return "events after the end"
        if any(isinstance(event, Started) for event in self.events[1:]):
            return "a start that is not the first"
        last = self.events[-1]
        ids = [token for event in self.events if isinstance(event, Delta)
               for token in event.token_ids]  # fmt: skip
        is_text = isinstance(self.request, GenerationRequest)
        if is_text and isinstance(last, Finished) and last.completion_tokens < len(ids):
            return "more tokens than were counted"
        cancelled = self.outcome == FinishReason.CANCELLED
        if is_text and not cancelled and last.completion_tokens != len(ids):
            return "fewer tokens than were counted"
        return "cancelled, nobody asked for it" if cancelled and self.cancel_after is None else None


def random_request(chance: random.Random, vocabulary: int, longest: int, most: int) -> Any:
    """A request with everything about it drawn."""
    prompt = tuple(chance.randrange(2, vocabulary) for _ in range(chance.randint(1, longest)))
    kind = chance.random()
    if kind < 0.1:
        ends = [tuple(chance.randrange(2, vocabulary) for _ in range(chance.randint(1, 6)))
                for _ in range(chance.randint(1, 4))]  # fmt: skip
        return ScoreRequest(TokenPrompt(prompt), tuple(ends))
    if kind < 0.15:
        return LogitsRequest(TokenPrompt(prompt))
    return GenerationRequest(
        TokenPrompt(prompt),
        Sampling(
            temperature=chance.choice((0.0, 0.7, 1.0, 1.5)),
            top_p=chance.choice((1.0, 1.0, 0.9)),
            top_k=chance.choice((0, 0, 40)),
            min_p=chance.choice((0.0, 0.0, 0.05)),
            seed=chance.randrange(2**64),
            repetition_penalty=chance.choice((1.0, 1.0, 1.2)),
            frequency_penalty=chance.choice((0.0, 0.0, 0.5)),
            logit_bias={chance.randrange(vocabulary): 2.0} if chance.random() < 0.2 else {},
        ),
        Stopping(
            max_tokens=chance.randint(1, most),
            stop_strings=tuple(chance.sample(STOPS, 5)) if chance.random() < 0.3 else (),
            ignore_eos=chance.random() < 0.5,
        ),
        Logprobs(output=chance.choice((None, None, 0, 3))),
    )


def campaign(
    engine: Engine, count: int, seed: int, longest: int, most: int, outstanding: int
) -> dict[str, Any]:
    """Run `count` requests, a fifth of them twins of others, and account for them.

    Args:
        engine: With nothing to do.
        count: How many requests.
        seed: Of everything that is drawn.
        longest: The most tokens of a prompt.
        most: The most tokens of an answer.
        outstanding: At most this many have been submitted and not ended.
    """
    chance = random.Random(seed)
    vocabulary = engine.info.vocabulary_size
    engine.clear_prefix_cache()
    before = engine.statistics()
    begun = time.monotonic()
    runs = [
        Run(
            random_request(chance, vocabulary, longest, most),
            chance.randint(0, 8) if chance.random() < 0.2 else None,
        )
        for _ in range(count - count // 5)
    ]
    for original in chance.sample(runs, count // 5):
        runs.insert(chance.randrange(len(runs)), Run(original.request, None))
    ended: SimpleQueue[Run] = SimpleQueue()
    running = 0
    for run in runs:
        run.submit(engine, ended)
        running += 1
        # In bursts: fill up, then let some end.
        while running >= outstanding or (running and chance.random() < 0.3):
            ended.get(timeout=600)
            running -= 1
    for _ in range(running):
        ended.get(timeout=600)
    seconds = time.monotonic() - begun
    whole = [run for run in runs if run.cancel_after is None]
    different = same_text_twice(whole)
    alone = alone_again(engine, chance.sample(whole, min(len(whole), count // 10)))
    engine.clear_prefix_cache()
    after = engine.statistics()
    faults = Counter(fault for run in runs if (fault := run.fault()))
    return {
        "requests": count,
        "outcomes": dict(Counter(run.outcome for run in runs)),
        "faults": dict(faults),
        "asked_to_cancel": sum(run.cancel_after is not None for run in runs),
        "twins_with_other_text": different,
        "texts_other_than_alone": alone,
        "seconds": round(seconds, 2),
        "tokens": after.generated_tokens - before.generated_tokens,
        "cached_prompt_tokens": after.cached_prompt_tokens - before.cached_prompt_tokens,
        "active_memory_before": before.active_memory,
        "active_memory_after": after.active_memory,
        "statistics": asdict(after),
        "ok": not faults
        and different == alone == 0
        and after.active == after.queued == 0
        and after.active_memory - before.active_memory < 2**20,
    }


def same_text_twice(runs: list[Run]) -> int:
    """How many of the runs got another text than the first with the same request."""
    first: dict[int, str] = {}
    return sum(first.setdefault(id(run.request), run.text) != run.text for run in runs)


def alone_again(engine: Engine, runs: list[Run]) -> int:
    """How many get another text with nobody beside them and nothing known of before."""
    different = 0
    for run in runs:
        engine.clear_prefix_cache()
        again = Run(run.request, None)
        ended: SimpleQueue[Run] = SimpleQueue()
        again.submit(engine, ended)
        ended.get(timeout=600)
        different += again.text != run.text
    return different


def main() -> None:
    """Run a campaign as the command line asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-prompt", type=int, default=48)
    parser.add_argument("--most-tokens", type=int, default=24)
    parser.add_argument("--outstanding", type=int, default=24)
    asked = parser.parse_args()
    with Engine(asked.model) as engine:
        result = campaign(
            engine,
            asked.requests,
            asked.seed,
            asked.longest_prompt,
            asked.most_tokens,
            asked.outstanding,
        )
    print(json.dumps(result, indent=2))
    raise SystemExit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
