"""Options of the commands that go over texts in windows."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from jang_eval._windows import Convention, Windowing

TextsOption: TypeAlias = Annotated[
    list[Path],
    typer.Option(
        "--data",
        metavar="FILE|hub:ID",
        help="A text, such as wiki.test.raw; may be given several times. Or the split test of a "
        "data set, such as hub:Salesforce/wikitext/wikitext-2-raw-v1.",
    ),
]
ConventionOption: TypeAlias = Annotated[
    Convention,
    typer.Option(
        "--convention",
        help="Windows every --stride tokens, or one after the other of which the second half "
        "counts, as llama.cpp does.",
    ),
]
WindowOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--window", metavar="TOKENS", help="Length of a window. Default: 1024; llama.cpp's 512."
    ),
]
StrideOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="TOKENS",
        help="From one window to the next. Default: half a window for perplexity, else a whole "
        "one.",
    ),
]
MostOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--windows", metavar="N", help="Only so many, spread evenly over the text. Default: all."
    ),
]


def windowing(
    convention: Convention, window: int | None, stride: int | None, most: int | None
) -> Windowing:
    """What the options say, with their defaults.

    Raises:
        OptionError: One of them is out of range.
    """
    if window is None:
        window = 512 if convention is Convention.LLAMA_CPP else 1024
    return Windowing(convention, window, max(1, window // 2) if stride is None else stride, most)


def whole_windows(
    convention: Convention, window: int | None, stride: int | None, most: int | None
) -> Windowing:
    """The same, where windows do not overlap unless that is asked for.

    Raises:
        OptionError: One of the options is out of range.
    """
    cutting = windowing(convention, window, stride, most)
    return replace(cutting, stride=cutting.window) if stride is None else cutting
