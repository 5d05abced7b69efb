"""The tasks of lm-evaluation-harness, run against a JANG server (needs the extra `lm-eval`).

`python -m jang_eval.harness` is the harness's own command, with one model more:

    python -m jang_eval.harness --model jang --model_args target=localhost:50051 --tasks mmlu

With `--apply_chat_template` the server puts its model's chat template around what tasks ask.
"""

# A checkout does not install the harness, only what typings say of it.
# pyright: reportMissingModuleSource=false

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jang_eval._access import read_access
from jang_eval._cutting import prompt, score
from jang_eval._errors import JangEvalError, OptionError, TargetError
from jang_eval._target import Target

# As for the harness's own models.
_MAX_TOKENS: Final = 256
# What tasks may set of `generation_kwargs`; the names of `top_p` and so on are the API's too.
_GENERATION_OPTIONS: Final = (
    "until",
    "max_gen_toks",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
)
# The most that the API takes at once.
_CONTINUATIONS_MAX: Final = 1024

# By name: as a command this module is `__main__`.
_log = logging.getLogger("jang_eval.harness")

_Input = TypeVar("_Input")
_Output = TypeVar("_Output")


@register_model("jang")
class ServedModel(LM):
    """A model behind `jang.runtime.v1`, for lm-evaluation-harness.

    Args:
        target: `HOST:PORT` or `unix:PATH` of the server.
        timeout: Seconds to wait for each answer.
        in_flight: How many requests the server has at a time.
        batch_size: The harness gives it to every model; servers make their own batches.
        max_batch_size: As `batch_size`.
        device: As `batch_size`.
        tls: Whether to encrypt; implied by what follows.
        tls_ca: PEM file: who may sign the server's certificate; the system's authorities if None.
        tls_cert: PEM file: the client's own certificate.
        tls_key: PEM file: its private key.
        token_file: File that holds a token, and nothing else.

    Raises:
        OptionError: A file cannot be read or holds something else.
        TargetError: The address is none; later: the server is unreachable, too slow, or refuses.
    """

    def __init__(
        self,
        target: str,
        timeout: float = 120.0,
        in_flight: int = 4,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
        *,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        token_file: str | None = None,
    ) -> None:
        super().__init__()
        access = read_access(tls, *map(_path, (tls_ca, tls_cert, tls_key, token_file)))
        self._target = Target(target, timeout=timeout, access=access)
        self._in_flight = in_flight
        self._model = self._target.model_info()
        # The harness puts a template around everything or nothing.
        self._is_templated = False

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness's caches of requests apart."""
        return self._model.digest or self._model.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text that the model reads of a conversation, up to where it is its turn.

        Raises:
            OptionError: The task wants the model to go on with an answer that is begun.
        """
        if not add_generation_prompt:
            raise OptionError("gen_prefix: found one with a chat template, expected none")
        self._is_templated = True
        return self._target.apply_chat_template(
            [(message["role"], message["content"]) for message in chat_history]
        )

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """How likely continuations are, and whether the model would write them by itself."""
        # A context with all its continuations is one request: the server reads it once.
        groups: dict[str, dict[str, None]] = {}
        for request in requests:
            context, continuation = request.args
            groups.setdefault(context, {})[continuation] = None
        asked = [
            (context, list(continuations)[at : at + _CONTINUATIONS_MAX])
            for context, continuations in groups.items()
            for at in range(0, len(continuations), _CONTINUATIONS_MAX)
        ]
        found: dict[tuple[str, str], tuple[float, bool]] = {}
        cut = 0
        for scored, is_cut in self._all(self._scored, asked):
            found |= scored
            cut += is_cut
        _warn_of_cut(cut, len(asked))
        return [found[request.args[0], request.args[1]] for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """How likely whole texts are, each token after as many as the context takes."""
        return self._all(self._rolling, [request.args[0] for request in requests])

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the model writes after texts, up to one of the task's marks.

        Raises:
            OptionError: The task wants it sampled in a way that this adapter does not know.
        """
        written = self._all(self._written, [(each.args[0], each.args[1]) for each in requests])
        _warn_of_cut(sum(is_cut for _, is_cut in written), len(written))
        return [text for text, _ in written]

    def _all(self, ask: Callable[[_Input], _Output], inputs: Sequence[_Input]) -> list[_Output]:
        with ThreadPoolExecutor(self._in_flight) as pool:
            return list(pool.map(ask, inputs))

    def _scored(
        self, asked: tuple[str, list[str]]
    ) -> tuple[dict[tuple[str, str], tuple[float, bool]], bool]:
        """How likely the continuations of a context are, and whether it was cut."""
        context, continuations = asked
        cut = 0
        if context:
            # A template has put in what belongs there.
            found = score(
                self._target, context, continuations, add_special_tokens=not self._is_templated
            )
            scores, cut = found.scores, found.cut
        else:
            tokens = [
                self._target.tokenize(each, add_special_tokens=False) for each in continuations
            ]
            scores = self._target.score((self._first_token(),), tokens)
        return {
            (context, continuation): (each.logprob, each.is_greedy)
            for continuation, each in zip(continuations, scores, strict=True)
        }, cut > 0

    def _rolling(self, text: str) -> float:
        # The first token stands before the text, so its tokenizer adds no mark of its own.
        tokens = self._target.tokenize(text, add_special_tokens=False)
        windows = get_rolling_token_windows(
            list(tokens), self._first_token(), self._target.room.prompt, 1
        )
        total = 0.0
        for window in windows:
            context, continuation = make_disjoint_window(window)
            (found,) = self._target.score(tuple(context), [tuple(continuation)])
            total += found.logprob
        return total

    def _written(self, asked: tuple[str, Mapping[str, Any]]) -> tuple[str, bool]:
        """What is written after a text, and whether that was cut."""
        context, options = asked
        unknown = options.keys() - {*_GENERATION_OPTIONS}
        if unknown:
            expected = f"some of {', '.join(_GENERATION_OPTIONS)}"
            raise OptionError(f"generation_kwargs: found {min(unknown)}, expected {expected}")
        until: str | Sequence[str] = options.get("until") or ()
        sampled = options.get("do_sample", "temperature" in options)
        max_tokens = options.get("max_gen_toks", _MAX_TOKENS)
        kept, cut = prompt(
            self._target, context, max_tokens, add_special_tokens=not self._is_templated
        )
        written = self._target.complete_text(
            kept,
            stop_strings=[until] if isinstance(until, str) else until,
            max_tokens=max_tokens,
            temperature=float(options.get("temperature", 1.0)) if sampled else 0.0,
            # At temperature 0 they make no difference.
            top_p=options.get("top_p"),
            top_k=options.get("top_k"),
            min_p=options.get("min_p"),
            add_special_tokens=not self._is_templated,
        )
        return written.text, cut > 0

    def _first_token(self) -> int:
        """What stands before a text that has nothing before it: its beginning, or an end."""
        tokens = self._model.special_tokens
        for token in (tokens.bos, tokens.eos, *self._model.eos_token_ids):
            if token is not None:
                return token
        raise TargetError(f"server {self._target.address}: found no bos or eos token, expected one")


def _warn_of_cut(cut: int, count: int) -> None:
    """Say how many of some requests were longer than the model's context."""
    if cut:
        _log.warning("cut %d of %d contexts from the left, to the model's context", cut, count)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def main() -> None:
    """The harness's own command; what a user of ours can cause is one line and exit status 2."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except JangEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
