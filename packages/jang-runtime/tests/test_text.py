"""From tokens to text: whole characters, stop strings, on any text."""

from hypothesis import given
from hypothesis import strategies as st

from jang_runtime._text import Detokenizer, StopStrings


def bytes_decode(ids: list[int]) -> str:
    """A tokenizer with one token for each byte: every longer character is split."""
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text())
def test_deltas_are_whole_characters_and_add_up_to_the_text(text: str) -> None:
    detokenizer = Detokenizer(bytes_decode)
    deltas = [detokenizer.add(byte) for byte in text.encode()]
    assert "".join(deltas) + detokenizer.finish() == text
    for delta in deltas:
        assert delta in text
        assert "\ufffd" not in delta or "\ufffd" in text


@given(st.lists(st.integers(0, 255)))
def test_bytes_that_are_no_text_come_out_as_valid_utf8_and_do_not_pile_up(ids: list[int]) -> None:
    detokenizer = Detokenizer(bytes_decode)
    shown = ""
    for place, byte in enumerate(ids):
        shown += detokenizer.add(byte)
        # At most three bytes wait for the fourth of a character.
        assert len(shown.encode()) >= len(bytes_decode(ids[: max(0, place - 2)])) - 3
    shown += detokenizer.finish()
    shown.encode("utf-8")


pieces = st.lists(st.text(alphabet="ab", max_size=4), max_size=12)
stops = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


@given(pieces, stops)
def test_text_is_cut_where_the_first_stop_string_begins_however_it_is_split(
    parts: list[str], strings: list[str]
) -> None:
    watcher = StopStrings(strings)
    shown, matched = "", None
    given_so_far = ""
    for part in parts:
        given_so_far += part
        text, matched = watcher.add(part)
        shown += text
        if matched:
            break
    else:
        shown += watcher.finish()
    if matched is None:
        assert shown == given_so_far
        assert not any(stop in given_so_far for stop in strings)
    else:
        assert given_so_far.startswith(shown + matched)
        assert not any(stop in shown for stop in strings)


def test_text_that_may_begin_a_stop_string_waits_and_other_text_does_not() -> None:
    watcher = StopStrings(["\nUser:"])
    assert watcher.add("Paris.") == ("Paris.", None)
    assert watcher.add("\nUs") == ("", None)
    assert watcher.add("a") == ("\nUsa", None)
    assert watcher.add(" ok\nUser: hi") == (" ok", "\nUser:")


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=40), min_size=1, max_size=4), pieces)
def test_no_more_is_held_back_than_could_begin_a_stop_string(
    strings: list[str], parts: list[str]
) -> None:
    watcher = StopStrings(strings)
    whole, shown = "", ""
    for part in parts:
        text, matched = watcher.add(part)
        whole, shown = whole + part, shown + text
        if matched:
            return
        beginnings = {stop[:n] for stop in strings for n in range(1, len(stop))}
        held = max((len(each) for each in beginnings if whole.endswith(each)), default=0)
        assert shown == whole[: len(whole) - held]


def test_a_long_stop_string_that_nearly_matches_all_the_time_is_found() -> None:
    stop = "ab" * 500 + "c"
    watcher = StopStrings([stop, "a" * 1024])
    shown = ""
    for _ in range(3000):
        text, matched = watcher.add("ab")
        assert matched is None
        shown += text
    assert shown == "ab" * 2500
    assert watcher.add("c!") == ("", stop)
