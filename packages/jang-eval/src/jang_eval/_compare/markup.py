"""Pieces of HTML; texts go in as they are and come out harmless."""

from collections.abc import Sequence

from jang_eval._compare.charts import clean


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page; first cells name the rows."""
    head = "".join(f'<th scope="col">{clean(text)}</th>' for text in headings)
    body = "".join(
        f'<tr><th scope="row">{clean(row[0])}</th>'
        + "".join(f"<td>{clean(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in rows
    )
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", name)


def scrolling(table: str, name: str = "") -> str:
    """Something wide, which can be scrolled by keys too."""
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{clean(name or "table")}">'
        f"{table}</div>"
    )


def figure(caption: str, picture: str, table: str) -> str:
    """A picture with its name, and its numbers for who cannot see it."""
    return (
        f"<figure><figcaption>{clean(caption)}</figcaption>{picture}"
        f"{folded('Numbers', table)}</figure>"
    )


def statement(caption: str, text: str) -> str:
    """A figure that needs no picture."""
    return f"<figure><figcaption>{clean(caption)}</figcaption><p>{clean(text)}</p></figure>"


def folded(name: str, content: str) -> str:
    """Something long, which is there when wanted."""
    return f"<details><summary>{clean(name)}</summary>{content}</details>"


def choice(name: str, parts: Sequence[tuple[str, str]]) -> str:
    """One of several parts at a time, chosen by its name; all of them where no script runs."""
    if len(parts) < 2:
        return "".join(content for _, content in parts)
    options = "".join(f"<option>{clean(title)}</option>" for title, _ in parts)
    contents = "".join(f"<div>{content}</div>" for _, content in parts)
    return (
        f'<div class="choice"><label hidden>{clean(name)} '
        f'<select autocomplete="off">{options}</select></label>{contents}</div>'
    )


def section(heading: str, note: str, content: str) -> str:
    """A part of the page; nothing where there is nothing to show."""
    if not content:
        return ""
    told = f'<p class="note">{clean(note)}</p>' if note else ""
    return f"<section><h2>{clean(heading)}</h2>{told}{content}</section>"


def grid(figures: Sequence[str]) -> str:
    """Figures beside each other where there is room, else below each other."""
    shown = "".join(figures)
    return f'<div class="grid">{shown}</div>' if shown else ""
