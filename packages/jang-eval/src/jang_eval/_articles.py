"""The documents of a text: articles of wikitext, whose raw form has all of them in one file."""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

# A top-level title, ` = Valkyria Chronicles III = `, alone between lines that are empty or, as in
# the published file, one space. Formulas of an article can look so too, but have text around them.
_TITLE: Final = re.compile(r"(?:\A|^ ?\n)(?= = (?!=).+(?<!=) = \n ?\n)", re.MULTILINE)


def split_documents(content: str) -> list[str]:
    """The documents of a text, in their order and without a gap; one where it has no titles.

    What stands before the first title belongs to the first document.
    """
    starts = [match.end() for match in _TITLE.finditer(content)][1:]
    return [
        content[begin:end] for begin, end in zip([0, *starts], [*starts, len(content)], strict=True)
    ]


def document_places(content: str, count: Callable[[str], int]) -> Sequence[int]:
    """At which token of a text each of its documents begins, the first at 0.

    Tokens of each document are counted by themselves. Where a tokenizer joins the end of one with
    the beginning of the next, places are off by as many tokens as it joins.

    Args:
        content: The text.
        count: Tokens of a text.
    """
    return [0, *accumulate(count(document) for document in split_documents(content)[:-1])]
