"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from jang_runtime._caches import KVQuantization
from jang_runtime._requests import DEFAULT_MAX_TOKENS, MAX_TOP_LOGPROBS

_CHOOSING = "How tokens are chosen"
_STOPPING = "When the answer ends"

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory.")]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        help="Most tokens of an answer.",
        show_default=str(DEFAULT_MAX_TOKENS),
        rich_help_panel=_STOPPING,
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End before this text; may be given several times.",
        rich_help_panel=_STOPPING,
    ),
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option(
        "--time-limit-seconds",
        help="End after this time with what there is.",
        rich_help_panel=_STOPPING,
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature",
        help="0 takes the most likely token every time.",
        rich_help_panel=_CHOOSING,
    ),
]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p", help="Sample from tokens that add up to this.", rich_help_panel=_CHOOSING
    ),
]
TopKOption = Annotated[
    int,
    typer.Option(
        "--top-k",
        help="Sample from this many most likely tokens; 0 means all.",
        rich_help_panel=_CHOOSING,
    ),
]
MinPOption = Annotated[
    float,
    typer.Option(
        "--min-p",
        help="Drop tokens less likely than this times the most likely one.",
        rich_help_panel=_CHOOSING,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="The same seed gives the same text.", rich_help_panel=_CHOOSING
    ),
]
RepetitionOption = Annotated[
    float,
    typer.Option(
        "--repetition-penalty",
        help="Above 1 makes tokens of prompt and answer less likely.",
        rich_help_panel=_CHOOSING,
    ),
]
PresenceOption = Annotated[
    float,
    typer.Option(
        "--presence-penalty",
        help="Subtracted from the logits of tokens that the answer has.",
        rich_help_panel=_CHOOSING,
    ),
]
FrequencyOption = Annotated[
    float,
    typer.Option(
        "--frequency-penalty",
        help="Subtracted for each time that the answer has a token.",
        rich_help_panel=_CHOOSING,
    ),
]
LogprobsOption = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="N",
        help=f"With --json: each token's log-probability, and the N likeliest, "
        f"0 to {MAX_TOP_LOGPROBS}.",
    ),
]
KVBitsOption = Annotated[
    int | None,
    typer.Option(
        "--kv-bits",
        help="Keep keys and values of attention in 4 or 8 bits; one request at a time.",
    ),
]
KVStartOption = Annotated[
    int,
    typer.Option("--kv-start", help="With --kv-bits: texts up to this length stay exact."),
]


def kv_quantization(bits: int | None, start: int) -> KVQuantization | None:
    """What --kv-bits and --kv-start ask for."""
    return None if bits is None else KVQuantization(bits, start)
