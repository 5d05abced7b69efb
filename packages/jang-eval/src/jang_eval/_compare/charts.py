"""Charts as SVG: colours come from the page's style sheet, by class, so that they fit its theme."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jang_eval._compare.axes import Axis

# As wide as a phone, so that letters keep their size there.
_WIDTH: Final = 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 14.0, 12.0, 42.0
_LETTER: Final = 6.8
_LINE: Final = 13.0
_LABEL_LINE: Final = 12.0
_LINES_MAX: Final = 3
_POINT_LETTERS: Final = 20
_BAR_LETTERS: Final = 24


@dataclass(frozen=True)
class Point:
    """One model in a scatter plot, with its interval upright."""

    x: float
    y: float
    low: float
    high: float
    label: str
    details: str
    on_front: bool
    is_reference: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar with its interval, and a mark to compare it with."""

    label: str
    value: float
    low: float
    high: float
    mark: float | None
    details: str


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    width: float
    height: float

    def overlaps(self, other: "_Box") -> bool:
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and self.top < other.top + other.height
            and other.top < self.top + self.height
        )


def clean(text: str) -> str:
    """Text of files and models for HTML and SVG: nothing in it is markup or moves other text."""
    # Joiners belong to many scripts; other invisible characters could turn text around.
    kept = "\n\u200c\u200d"
    printable = "".join(
        c if c.isprintable() or c in kept else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
    return html.escape(printable)


def scatter(name: str, points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Points with their intervals and names, and a line along the front."""
    height = 300.0
    across = _WIDTH - _LEFT - _RIGHT
    up = height - _TOP - _BOTTOM

    def left(value: float) -> float:
        return _LEFT + across * x.place(value)

    def top(value: float) -> float:
        return _TOP + up * (1 - y.place(value))

    parts = [_grid(x, y, height)]
    front = sorted((point for point in points if point.on_front), key=lambda point: point.x)
    if len(front) > 1:
        steps = f"M{left(front[0].x):.1f} {top(front[0].y):.1f}" + "".join(
            f"H{left(point.x):.1f}V{top(point.y):.1f}" for point in front[1:]
        )
        parts.append(f'<path class="front" d="{steps}"/>')
    boxes = [_Box(left(point.x) - 5, top(point.y) - 5, 10, 10) for point in points]
    boxes += [
        _Box(left(point.x) - 1, top(point.high), 2, top(point.low) - top(point.high))
        for point in points
    ]
    for point in points:
        at, level = left(point.x), top(point.y)
        kind = "point best" if point.on_front else "point"
        parts.append(
            f"<g><title>{clean(point.details)}</title>"
            f'<path class="whisker" d="M{at:.1f} {top(point.low):.1f}V{top(point.high):.1f}"/>'
            f"{_mark(kind, at, level, point.is_reference)}</g>"
        )
    for point in points:
        box, anchor = _label_box(left(point.x), top(point.y), point.label, boxes, height)
        boxes.append(box)
        if anchor:
            line = f"M{left(point.x):.1f} {top(point.y):.1f}L{anchor}"
            parts.append(f'<path class="leader" d="{line}"/>')
        parts += [
            _text(box.left, box.top + 10 + _LABEL_LINE * n, line, "label")
            for n, line in enumerate(wrapped(point.label, _POINT_LETTERS))
        ]
    return _svg(name, height, parts)


def histogram(
    name: str,
    edges: Sequence[float],
    shares: Sequence[float],
    marks: Sequence[tuple[float, str]],
    x: Axis,
    y: Axis,
) -> str:
    """Shares between edges as columns, and some values marked by upright lines.

    Args:
        name: What the picture shows.
        edges: Of the columns, one more than there are columns.
        shares: Heights of the columns.
        marks: Values and their names.
        x: Axis of the edges.
        y: Axis of the shares.
    """
    height = 200.0
    across = _WIDTH - _LEFT - _RIGHT
    top = _TOP + _LINE * len(marks)
    up = height - top - _BOTTOM
    parts = [_grid(x, y, height, top)]
    for start, end, share in zip(edges[:-1], edges[1:], shares, strict=True):
        at = _LEFT + across * x.place(start)
        width = max(0.5, _LEFT + across * x.place(end) - at - 1)
        tall = up * y.place(share)
        parts.append(
            f'<rect class="bar" x="{at:.1f}" y="{top + up - tall:.1f}" width="{width:.1f}" '
            f'height="{tall:.1f}"><title>{start:.3g} to {end:.3g}: {100 * share:.2f} %</title>'
            "</rect>"
        )
    for index, (value, label) in enumerate(marks):
        at = _LEFT + across * x.place(value)
        level = _TOP + _LINE * index + 9
        parts.append(f'<path class="mark" d="M{at:.1f} {level - 9:.1f}V{top + up:.1f}"/>')
        right = at + len(label) * _LETTER + 4 > _WIDTH
        anchor = ' text-anchor="end"' if right else ""
        parts.append(_text(at - 4 if right else at + 4, level, label, "label", anchor))
    return _svg(name, height, parts)


def bars(name: str, rows: Sequence[Bar], x: Axis) -> str:
    """Lying bars from the start of the axis, with whiskers and marks."""
    left = 164.0
    labels = [wrapped(bar.label, _BAR_LETTERS) for bar in rows]
    row = 17.0 + _LABEL_LINE * (max(map(len, labels), default=1) - 1)
    across = _WIDTH - left - _RIGHT
    height = _TOP + row * len(rows) + _BOTTOM
    parts: list[str] = []
    for value, label in x.ticks:
        at = left + across * x.place(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{height - _BOTTOM:.1f}"/>')
        parts.append(_text(at, height - _BOTTOM + 15, label, "tick", ' text-anchor="middle"'))
    parts.append(
        _text(left + across / 2, height - 8, x.title, "axis", ' text-anchor="middle"'),
    )
    for index, bar in enumerate(rows):
        top = _TOP + row * index
        low, at, high = (left + across * x.place(v) for v in (bar.low, bar.value, bar.high))
        middle = top + row / 2
        mark = ""
        if bar.mark is not None:
            level = left + across * x.place(bar.mark)
            mark = f'<path class="mark" d="M{level:.1f} {top + 1:.1f}V{top + row - 1:.1f}"/>'
        parts.append(
            f"<g><title>{clean(bar.details)}</title>"
            f'<rect class="bar" x="{left}" y="{middle - 5.5:.1f}" '
            f'width="{max(0.0, at - left):.1f}" height="11"/>'
            f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>{mark}</g>'
        )
        first = middle + 4 - _LABEL_LINE * (len(labels[index]) - 1) / 2
        parts += [
            _text(left - 6, first + _LABEL_LINE * n, line, "label", ' text-anchor="end"')
            for n, line in enumerate(labels[index])
        ]
    return _svg(name, height, parts)


def wrapped(label: str, length: int) -> list[str]:
    """A name in up to three lines; what is longer stands whole in the table and in the tooltip."""
    lines: list[str] = []
    left = label
    while len(left) > length and len(lines) < _LINES_MAX - 1:
        # Behind what joins words, but no line of a few letters.
        ends = [n for n in range(length // 2, length + 1) if left[n - 1] in " -_/,"]
        end = ends[-1] if ends else length
        lines.append(left[:end].rstrip())
        left = left[end:].lstrip()
    return [*lines, left if len(left) <= length else f"{left[: length - 1]}…"]


def _mark(kind: str, x: float, y: float, is_reference: bool) -> str:
    if not is_reference:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    return f'<path class="{kind}" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'


def _svg(name: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{clean(name)}" viewBox="0 0 {_WIDTH:.0f} {height:.0f}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, kind: str, more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{more}>{clean(text)}</text>'


def _grid(x: Axis, y: Axis, height: float, top: float = _TOP) -> str:
    across = _WIDTH - _LEFT - _RIGHT
    bottom = height - _BOTTOM
    parts: list[str] = []
    for value, label in y.ticks:
        level = top + (bottom - top) * (1 - y.place(value))
        parts.append(f'<path class="grid" d="M{_LEFT} {level:.1f}h{across:.1f}"/>')
        parts.append(_text(_LEFT - 5, level + 4, label, "tick", ' text-anchor="end"'))
    for value, label in x.ticks:
        at = _LEFT + across * x.place(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {bottom:.1f}v4"/>')
        parts.append(_text(at, bottom + 16, label, "tick", ' text-anchor="middle"'))
    middle = (top + bottom) / 2
    turned = f' text-anchor="middle" transform="rotate(-90 11 {middle:.1f})"'
    parts.append(_text(11, middle, y.title, "axis", turned))
    parts.append(
        _text(_LEFT + across / 2, height - 8, x.title, "axis", ' text-anchor="middle"'),
    )
    return "".join(parts)


def _label_box(
    x: float, y: float, label: str, taken: Sequence[_Box], height: float
) -> tuple[_Box, str]:
    """Finds a place for a point's name, and from how far away a line has to lead to it."""
    lines = wrapped(label, _POINT_LETTERS)
    width = max(map(len, lines)) * _LETTER
    tall = 12 + _LABEL_LINE * (len(lines) - 1)
    sides = (x + 8, x - 8 - width, x - width / 2)
    # Beside the point first, then ever farther above and below it.
    shifts = [0.0] + [sign * distance for distance in range(13, 150, 6) for sign in (-1, 1)]
    for shift in shifts:
        for side in sides[: 2 if shift == 0 else 3]:
            box = _Box(side, y - tall / 2 + shift, width, tall)
            inside = side >= _LEFT + 1 and side + width <= _WIDTH - 1
            inside = inside and _TOP - 8 <= box.top <= height - _BOTTOM - tall + 1
            if inside and not any(box.overlaps(other) for other in taken):
                if abs(shift) <= tall / 2 + 7:
                    return box, ""
                end = side if side > x else side + width if side + width < x else x
                level = box.top + (tall if shift < 0 else 0)
                return box, f"{end:.1f} {level:.1f}"
    return _Box(max(_LEFT, min(x + 8, _WIDTH - width)), y - tall / 2, width, tall), ""
