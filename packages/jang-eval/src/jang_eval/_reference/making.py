"""Makes the records of a reference's file from a server's logits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from jang_eval._prompts import prompts_digest, prompts_sha256, tokenize_prompts
from jang_eval._reference.file import Header, StoredWindow, record
from jang_eval._reference.served import following, following_prompt, prompt_rows, rows_of
from jang_eval._target import Target
from jang_eval._windows import Windowing, check_fits, cut, read_texts, tokenize, tokens_digest

# Makes the record of the header's n-th window or prompt, from 0.
MakeRecord: TypeAlias = Callable[[int], bytes]


def reference_of_texts(
    server: Target, data: Sequence[Path], keep: str, cutting: Windowing
) -> tuple[Header, MakeRecord]:
    """What is kept of a server's logits on texts; nothing is asked for before it is made.

    Raises:
        DataError: A text cannot be read, or is too short for a window.
        OptionError: The server does not take texts as long as a window.
        TargetError: The server is unreachable, too slow, or refuses; from the function too.
    """
    check_fits(server, cutting)
    texts, digest = read_texts(data)
    tokens = tokenize(server, texts)
    cuts = cut(tokens, cutting)
    header = Header(
        keep=keep,
        model=server.model_info(),
        data_sha256=digest,
        tokens=tokens_digest(tokens),
        windowing=cutting,
        windows=tuple(StoredWindow(each.id, each.scored) for each in cuts),
    )

    def make(place: int) -> bytes:
        window = cuts[place]
        return record(keep, (rows for _, rows in rows_of(server, window)), following(window))

    return header, make


def reference_of_prompts(
    server: Target, texts: Sequence[str], keep: str
) -> tuple[Header, MakeRecord]:
    """What is kept of a server's logits on prompts; nothing is asked for before it is made.

    Raises:
        TargetError: The server is unreachable, too slow, or refuses; from the function too.
    """
    prompts = tokenize_prompts(server, texts)
    header = Header(
        keep=keep,
        model=server.model_info(),
        data_sha256=prompts_sha256(texts),
        tokens=prompts_digest(prompts),
        windowing=None,
        windows=tuple(StoredWindow(each.id, len(each.tokens)) for each in prompts),
    )

    def make(place: int) -> bytes:
        rows = prompt_rows(server, prompts[place])
        return record(keep, [rows], following_prompt(prompts[place], rows))

    return header, make
