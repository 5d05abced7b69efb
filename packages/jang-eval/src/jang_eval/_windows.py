"""Windows of tokens over texts, in the two conventions in use, and what makes them comparable."""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from jang_eval._articles import document_places
from jang_eval._errors import DataError, OptionError
from jang_eval._target import Target


class Convention(StrEnum):
    """How windows lie over a text, and which of their tokens count.

    STRIDED: a window begins every `stride` tokens, and each token counts once, in the window that
    gives it the most context, as transformers' documentation has it; none counts that has nothing
    before it in its window. Of windows that are spread over a text (`most`) only those tokens count
    that have `window` - `stride` before them.
    LLAMA_CPP: windows do not overlap, each begins with the beginning-of-text mark where the
    tokenizer adds one, and the tokens after the middle count; as llama.cpp's perplexity tool has
    it.
    """

    STRIDED = "strided"
    LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True)
class Windowing:
    """How texts are cut.

    Attributes:
        convention: Of the two in use.
        window: Tokens in a window.
        stride: Tokens from one window's beginning to the next; for STRIDED.
        most: So many windows, spread evenly over each text; None means all.
    """

    convention: Convention
    window: int
    stride: int
    most: int | None = None

    def __post_init__(self) -> None:
        if self.window < 4:
            raise OptionError(f"window: found {self.window}, expected at least 4 tokens")
        if not 1 <= self.stride <= self.window:
            raise OptionError(f"stride: found {self.stride}, expected 1 to {self.window}")
        if self.most is not None and self.most < 1:
            raise OptionError(f"windows: found {self.most}, expected at least 1")

    @property
    def settings(self) -> dict[str, str]:
        """As results keep them."""
        stride = self.stride if self.convention is Convention.STRIDED else self.window
        return {
            "convention": self.convention.value,
            "window": str(self.window),
            "stride": str(stride),
            "windows": "all" if self.most is None else str(self.most),
        }


@dataclass(frozen=True)
class Window:
    """Some tokens of a text.

    Attributes:
        id: Such as "wiki.test.raw:512", the place of the first token.
        document: In which it begins: the text's name, or such as "wiki.test.raw#7" where the text
            has several.
        tokens: All of them.
        first: The first token that counts; those before it are context only. At least 1.
    """

    id: str
    document: str
    tokens: tuple[int, ...]
    first: int

    @property
    def scored(self) -> int:
        """How many tokens count."""
        return len(self.tokens) - self.first


@dataclass(frozen=True)
class Text:
    """One file of a data set."""

    name: str
    content: str


@dataclass(frozen=True)
class Tokens:
    """A text as one model's tokenizer cuts it.

    Attributes:
        name: The text's.
        beginning: What the tokenizer puts before a text.
        ids: The text.
        documents: Where in `ids` the text's documents begin, the first at 0.
    """

    name: str
    beginning: tuple[int, ...]
    ids: tuple[int, ...]
    documents: tuple[int, ...] = (0,)


def read_texts(paths: Sequence[Path]) -> tuple[list[Text], str]:
    """Read texts, and the digest of all of them in their order.

    Raises:
        DataError: A file is missing, is no UTF-8, or says nothing.
    """
    names = [path.name for path in paths]
    texts: list[Text] = []
    digests: list[str] = []
    for path in paths:
        try:
            data = path.read_bytes()
            content = data.decode()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: found no UTF-8 ({error.reason}), expected text") from error
        if not content.strip():
            raise DataError(f"{path}: found no text, expected some")
        if names.count(path.name) > 1:
            raise DataError(f"{path}: found another file of that name, expected different names")
        texts.append(Text(path.name, content))
        digests.append(hashlib.sha256(data).hexdigest())
    if len(digests) == 1:
        return texts, digests[0]
    return texts, hashlib.sha256(" ".join(digests).encode()).hexdigest()


def tokenize(target: Target, texts: Sequence[Text]) -> list[Tokens]:
    """Have a server tokenize texts, without the marks that it puts around them."""
    plain = target.tokenize("a", add_special_tokens=False)
    marked = target.tokenize("a")
    places = [n for n in range(len(marked)) if marked[n : n + len(plain)] == plain]
    beginning = marked[: places[0]] if places else ()

    def ids(content: str) -> tuple[int, ...]:
        return target.tokenize(content, add_special_tokens=False)

    return [
        Tokens(
            text.name,
            beginning,
            ids(text.content),
            tuple(document_places(text.content, lambda document: len(ids(document)))),
        )
        for text in texts
    ]


def cut(tokens: Sequence[Tokens], windowing: Windowing) -> list[Window]:
    """Cut texts into windows; none has tokens of two texts.

    Raises:
        DataError: A text is too short for one window.
    """
    return [window for each in tokens for window in _cut_one(each, windowing)]


def tokens_digest(tokens: Sequence[Tokens]) -> str:
    """Says whether two tokenizers cut the texts alike: the first 16 digits of a SHA-256."""
    digest = hashlib.sha256()
    for each in tokens:
        digest.update(np.array([len(each.beginning), len(each.ids)], "<u8").tobytes())
        digest.update(np.array(each.beginning + each.ids, "<u4").tobytes())
    return digest.hexdigest()[:16]


def block_names(windows: Sequence[Window]) -> tuple[str, Mapping[str, str]]:
    """What is drawn again for intervals: documents if there are enough of them, else windows.

    Returns:
        "documents" or "windows", and for each window's id the block that it is in.
    """
    documents = {window.document for window in windows}
    if len(documents) >= DOCUMENTS_ENOUGH:
        return "documents", {window.id: window.document for window in windows}
    return "windows", {window.id: window.id for window in windows}


# Fewer blocks drawn again say little about all that could have been drawn.
DOCUMENTS_ENOUGH = 10


def check_fits(target: Target, windowing: Windowing) -> None:
    """Tell before the work whether the server takes texts as long as a window.

    Raises:
        OptionError: It does not.
    """
    most = min(target.most_prompt_tokens(), target.model_info().context_length)
    if windowing.window > most:
        raise OptionError(
            f"window: found {windowing.window} tokens, expected at most {most}, "
            f"the limit of server {target.address}"
        )


def _cut_one(tokens: Tokens, windowing: Windowing) -> list[Window]:
    stream = tokens.beginning + tokens.ids
    length = windowing.window
    if windowing.convention is Convention.LLAMA_CPP:
        begins = [(n, length // 2 + 1) for n in range(0, len(stream) - length + 1, length)]
    else:
        begins = list(_strided(len(stream), length, windowing.stride))
    if windowing.most is not None and windowing.most < len(begins):
        begins = _spread(begins, len(stream), windowing)
    if not begins:
        raise DataError(
            f"{tokens.name}: found {len(stream)} tokens, expected at least a window of {length}"
        )
    found: list[Window] = []
    for begin, first in begins:
        ids = stream[begin : begin + length]
        if windowing.convention is Convention.LLAMA_CPP:
            ids = tokens.beginning + ids[len(tokens.beginning) :]
        found.append(Window(f"{tokens.name}:{begin}", _document(tokens, begin), ids, first))
    return found


def _document(tokens: Tokens, begin: int) -> str:
    """The document in which a window begins; `begin` counts the marks before the text too."""
    if len(tokens.documents) == 1:
        return tokens.name
    place = bisect_right(tokens.documents, max(0, begin - len(tokens.beginning)))
    return f"{tokens.name}#{place}"


def _spread(
    begins: Sequence[tuple[int, int]], count: int, windowing: Windowing
) -> list[tuple[int, int]]:
    most = windowing.most or 1
    if most * windowing.window > count:
        return [begins[n * len(begins) // most] for n in range(most)]
    # As the pages under docs/results have them.
    first = begins[-1][1]
    if windowing.convention is Convention.STRIDED:
        first = max(1, windowing.window - windowing.stride)
    return [(n * (count // most), first) for n in range(most)]


def _strided(count: int, length: int, stride: int) -> list[tuple[int, int]]:
    """Where windows begin, and which of their tokens is the first that no window before has."""
    found: list[tuple[int, int]] = []
    end = 0
    for begin in range(0, count, stride):
        first = max(1, end - begin)
        end = min(begin + length, count)
        # With a stride as long as the window a last token may be alone, without any context.
        if end - begin > first:
            found.append((begin, first))
        if end == count:
            break
    return found
