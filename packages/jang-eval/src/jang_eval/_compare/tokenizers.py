"""What can be compared of results whose tokenizers cut the same text in different ways."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from jang_eval._evaluation import EvaluationResult

# Of these tasks, the metrics that are by something which no tokenizer decides.
_METRICS: Final = {"perplexity": ("word perplexity", "byte perplexity", "bits per byte")}
_TOKENS: Final = "tokens"
_DIFFERENT: Final = "different, so nothing by token is shown"


def without_tokens(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Results of one task, less all that is by token where not all have the same tokens.

    Where only some windows were read they are left as they are: another tokenizer's windows have
    other parts of the text.
    """
    metrics = _METRICS.get(results[0].task)
    is_same = len({each.settings.get(_TOKENS) for each in results}) == 1
    if metrics is None or is_same or any(each.settings.get("windows") != "all" for each in results):
        return list(results)
    return [
        replace(
            each,
            settings=each.settings | {_TOKENS: _DIFFERENT},
            metrics=tuple(metric for metric in each.metrics if metric.name in metrics),
            # Windows, which are of other texts.
            outcomes=(),
        )
        for each in results
    ]
