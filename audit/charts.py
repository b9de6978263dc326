"""Small SVG charts for the report: plain shapes and text, no scripts, everything from outside escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, FAINT, BLUE = "#1b2733", "#8a96a3", "#0072b2"
VERDICT_COLOURS = {
    "retained": "#bfe3d0",
    "suspected": "#f2c14e",
    "excluded": "#d55e00",
    "convicted": "#7a1f3d",
    "late": "#9aa5b1",
    "withdrawn": "#7fb2d9",
    "none": "#eef1f4",
}
"""Colour and (below) letter of each mark, so that a print without colours says the same."""
LETTERS = {"suspected": "S", "excluded": "X", "convicted": "C", "late": "L", "withdrawn": "W"}

_LABEL = 150


@dataclass(frozen=True)
class Band:
    """A silo's accuracy with its interval, each within 0 and 1."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class WeightPoint:
    """One round of a silo: its weight (None where it had none), and that round's floor and cap."""

    round: int
    weight: int | None
    floor: int
    cap: int


def accuracy_chart(
    bands: Sequence[Band],
    width: int = 860,
    label: int = _LABEL,
    title: str = "Accuracy of the final model per silo with 95 percent intervals",
) -> str:
    """One line per silo: a dot and the whisker of its interval, over 0 to 100 %; `label` is the room for names."""
    step, top = 26, 8
    left, right = label, width - 70
    height = top + step * len(bands) + 26

    def x(value: float) -> float:
        return left + (right - left) * value

    parts = [_grid_line(x(tick / 5), top, height - 22, f"{20 * tick} %") for tick in range(6)]
    for row, band in enumerate(bands):
        y = top + step * row + step / 2
        parts += [
            _text(left - 10, y + 4, band.label, anchor="end"),
            _line(x(band.low), y, x(band.high), y, BLUE, 2.5),
            *(_line(x(end), y - 5, x(end), y + 5, BLUE, 2.5) for end in (band.low, band.high)),
            f'<circle cx="{x(band.value):.1f}" cy="{y:.1f}" r="4.5" fill="{INK}"/>',
            _text(right + 12, y + 4, f"{band.value:.1%}", colour=INK),
        ]
    return _svg(width, height, parts, title)


def weight_chart(label: str, points: Sequence[WeightPoint], width: int = 280, height: int = 130) -> str:
    """One silo's weight over the rounds, between the lines of floor and cap."""
    left, right, top, bottom = 34, width - 8, 24, height - 20
    most = max([1, *(point.cap for point in points), *(point.weight or 0 for point in points)])
    last = max([2, *(point.round for point in points)])

    def x(number: float) -> float:
        return left + (right - left) * (number - 1) / (last - 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / (1.08 * most)

    def path(values: Sequence[tuple[int, int | None]]) -> str:
        """A line with a gap at each None; a lone point becomes a short dash."""
        text, pen = "", "M"
        for number, value in values:
            if value is not None:
                text += f"{pen}{x(number):.1f} {y(value):.1f}" + ("h0.1" if pen == "M" else "")
            pen = "M" if value is None else "L"
        return text

    floors = path([(point.round, point.floor if point.cap else None) for point in points])
    caps = path([(point.round, point.cap or None) for point in points])
    weights = path([(point.round, point.weight) for point in points])
    dots = [
        f'<circle cx="{x(p.round):.1f}" cy="{y(p.weight):.1f}" r="1.8" fill="{BLUE}"><title>round {p.round}: '
        f"{p.weight} (floor {p.floor}, cap {p.cap})</title></circle>"
        for p in points
        if p.weight is not None
    ]
    parts = [
        _text(left, 14, label, colour=INK, weight="600"),
        _line(left, bottom, right, bottom, FAINT, 1),
        *(_text(left - 5, y(value) + 4, str(value), anchor="end", size=10) for value in (0, most)),
        *(_text(x(number), height - 6, str(number), anchor="middle", size=10) for number in (1, last)),
        *(f'<path d="{d}" fill="none" stroke="{FAINT}" stroke-dasharray="4 3"/>' for d in (floors, caps)),
        f'<path d="{weights}" fill="none" stroke="{BLUE}" stroke-width="1.6" stroke-linecap="round"/>',
        *dots,
    ]
    return _svg(width, height, parts, f"Weight of {label} over the rounds, with floor and cap")


def verdict_chart(rows: Sequence[tuple[str, Sequence[tuple[int, str]]]], rounds: int, width: int = 860) -> str:
    """A strip per silo with one cell a round; each row is a label and (round, verdict) pairs."""
    step, top = 24, 4
    cell = min(22.0, (width - _LABEL - 8) / max(1, rounds))
    height = top + step * len(rows) + 20
    parts = []
    for row, (label, marks) in enumerate(rows):
        y = top + step * row
        parts.append(_text(_LABEL - 10, y + 15, label, anchor="end"))
        parts += [_cell(_LABEL + cell * (number - 1), y, cell, label, number, verdict) for number, verdict in marks]
    for number in _ticks(rounds):
        parts.append(_text(_LABEL + cell * (number - 0.5), height - 5, str(number), anchor="middle", size=10))
    return _svg(width, height, parts, "Verdict on each silo in each round")


def legend() -> str:
    """What the colours and letters of the verdict chart mean (HTML)."""
    items = [
        f'<span class="key"><i style="background:{colour}">{LETTERS.get(name, "&nbsp;")}</i>{escape(name)}</span>'
        for name, colour in VERDICT_COLOURS.items()
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def _cell(x: float, y: float, cell: float, label: str, number: int, verdict: str) -> str:
    gap = 1 if cell > 4 else 0
    colour = VERDICT_COLOURS.get(verdict, VERDICT_COLOURS["none"])
    title = f"<title>{escape(label)}, round {number}: {escape(verdict)}</title>"
    shape = f'<rect x="{x:.1f}" y="{y}" width="{cell - gap:.1f}" height="20" fill="{colour}">{title}</rect>'
    letter = LETTERS.get(verdict)
    if letter is None or cell < 9:
        return shape
    ink = "#fff" if verdict in ("excluded", "convicted") else INK
    return shape + _text(x + (cell - gap) / 2, y + 14, letter, anchor="middle", size=10, colour=ink)


def _ticks(rounds: int) -> list[int]:
    every = max(1, -(-rounds // 8))
    return [1, *range(every, rounds + 1, every)] if every > 1 else list(range(1, rounds + 1))


def _grid_line(x: float, top: float, bottom: float, label: str) -> str:
    return _line(x, top, x, bottom, "#e3e8ed", 1) + _text(x, bottom + 16, label, anchor="middle", size=11)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = "#4a5763", weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _svg(width: int, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
