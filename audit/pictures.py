"""Pictures of triggers: blocks on a terminal, plain shapes in the report."""

from __future__ import annotations

from html import escape

from audit.findings import described, picture
from protos.search import Trigger

_SHADES = " ░▒▓█"
_CELL = 7
_MOST_WIDE = 28


def blocks(trigger: Trigger) -> list[str]:
    """Lines of text: where the mask is, as dark as it is strong; two characters a value. Empty for a flip."""
    width, values = picture(trigger)
    cells = [2 * _SHADES[(mask * (len(_SHADES) - 1) + 254) // 255] for mask, _ in values]
    return ["".join(cells[start : start + width]) for start in range(0, len(cells), max(1, width))]


def svg(trigger: Trigger) -> str:
    """The trigger as an SVG: opacity is the mask, grey the pattern. Empty for a flip."""
    width, values = picture(trigger)
    if not values:
        return ""
    cell = _CELL if width <= _MOST_WIDE else 3
    height = -(-len(values) // width)
    parts = [f'<rect width="{width * cell}" height="{height * cell}" fill="#e8edf7"/>']
    for place, (mask, pattern) in enumerate(values):
        if mask:
            x, y = place % width * cell, place // width * cell
            colour, opacity = f"rgb({pattern},{pattern},{pattern})", f"{mask / 255:.2f}"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{colour}" fill-opacity="{opacity}"/>'
            )
    return (
        f'<svg viewBox="0 0 {width * cell} {height * cell}" width="{width * cell}" height="{height * cell}" '
        f'role="img" aria-label="{escape(described(trigger))}">{"".join(parts)}</svg>'
    )
