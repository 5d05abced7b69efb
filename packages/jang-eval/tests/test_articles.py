"""Where a text has documents, and which windows are whose."""

from jang_eval._articles import document_places, split_documents
from jang_eval._windows import Convention, Tokens, Windowing, block_names, cut

# As wiki.test.raw has them: a formula that looks like a title is none, nor is a section's.
ARTICLES = (
    " \n = First = \n \n Text .\n = 1 henry = \n more \n \n = = Section = = \n \n Text \n \n",
    " = Second ( film ) = \n \n Text \n \n",
    " = Third = \n \n Text \n",
)
WINDOWS = Windowing(Convention.STRIDED, 8, 4)


def test_articles_of_wikitext_begin_at_their_titles() -> None:
    assert split_documents("".join(ARTICLES)) == [*ARTICLES]
    # Also where the text begins with one.
    assert split_documents("".join(ARTICLES[1:])) == [*ARTICLES[1:]]


def test_lines_of_the_hub_that_are_empty_serve_as_well() -> None:
    assert split_documents("\n = A = \n\n x \n\n = B = \n\n y \n") == [
        "\n = A = \n\n x \n\n",
        " = B = \n\n y \n",
    ]


def test_a_text_without_titles_is_one_document() -> None:
    assert split_documents("a = b\n\n= c =\n\nd") == ["a = b\n\n= c =\n\nd"]


def test_documents_begin_after_the_tokens_of_those_before() -> None:
    first, second, _ = map(len, ARTICLES)
    assert [*document_places("".join(ARTICLES), len)] == [0, first, first + second]


def test_a_window_belongs_to_the_document_in_which_it_begins_and_counts_the_same_tokens() -> None:
    ids = tuple(range(100, 140))
    parts = Tokens("t", (1,), ids, (0, 3, 20))
    windows = cut([parts], WINDOWS)
    # The mark before the text is in front of all places.
    assert [(each.id, each.document) for each in windows[:3]] == [
        ("t:0", "t#1"),
        ("t:4", "t#2"),
        ("t:8", "t#2"),
    ]
    assert {each.document for each in windows} == {"t#1", "t#2", "t#3"}
    whole = cut([Tokens("t", (1,), ids)], WINDOWS)
    assert {each.document for each in whole} == {"t"}
    assert [(each.id, each.tokens, each.first) for each in windows] == [
        (each.id, each.tokens, each.first) for each in whole
    ]


def test_ten_documents_of_one_file_are_what_intervals_draw() -> None:
    tokens = Tokens("t", (), tuple(range(80)), tuple(range(0, 80, 8)))
    windows = cut([tokens], WINDOWS)
    unit, blocks = block_names(windows)
    assert unit == "documents"
    assert blocks["t:4"] == "t#1"
    assert len(set(blocks.values())) == 10
    few = cut([Tokens("t", (), tuple(range(80)), tuple(range(0, 72, 8)))], WINDOWS)
    assert block_names(few)[0] == "windows"
