"""Plots of dots: one line per variant with its value, its interval, and what it is read beside, as inline SVG.

Written by hand, so that a line may link to the results that it shows and text keeps its size. Same colours as every
other plot of the page; a variant beyond the eighth gets another shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bdh.report.formats import fixed
from bdh.report.plots.figure import LETTER, Place, marker, paint, plain_label, ticks

WIDTH, ROW = 470, 16
TOP, BOTTOM = 4, 36
WIDEST_LABEL, GAP = 190, 10


@dataclass(frozen=True)
class Beside:
    """What a value is read beside: a bar of mean ± 2 standard deviations (`null`) or a hollow mark (`twin`)."""

    kind: str
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Dot:
    """One line: label, value, ends of its interval, the words on the right, and the address that they link to.

    slot: colour of the variant, None for a reference such as a floor. beside: see `Beside`. note: shows on hovering.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    address: str = ""
    slot: int | None = None
    beside: Sequence[Beside] = ()
    note: str = ""


@dataclass(frozen=True)
class DotPanel:
    """One plot of dots: what it shows, its axis, its lines, vertical marks (name, value), and a note below it.

    limit: where the axis ends at the latest.
    """

    name: str
    title: str
    x_label: str
    dots: Sequence[Dot]
    marks: Sequence[tuple[str, float]] = ()
    note: str = ""
    limit: float | None = None


def draw_dots(panel: DotPanel) -> str:
    """The plot as inline SVG; empty without a line. What lies outside the reach of the variants is an arrow."""
    if not panel.dots:
        return ""
    left = min(WIDEST_LABEL, max(len(dot.label) for dot in panel.dots) * LETTER + GAP)
    right = max(len(dot.text) for dot in panel.dots) * LETTER + GAP
    low, high = _reach(panel)
    span = WIDTH - left - right - 2 * GAP

    def place(value: float) -> float:
        return left + GAP + (min(max(value, low), high) - low) / (high - low) * span

    bottom = TOP + ROW * len(panel.dots)
    parts = []
    for tick in ticks(low, high):
        x = place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{plain_label(tick, high - low)}</text>')
    for name, value in panel.marks:
        if low <= value <= high:
            x = place(value)
            parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"><title>{escape(name)}'
                f" {fixed(value)}</title></line>"
            )
    for at, dot in enumerate(panel.dots):
        parts += _line(dot, TOP + ROW * (at + 0.5), left, place, (low, high))
    parts.append(
        f'<text x="{left + GAP + span / 2:.1f}" y="{bottom + 31}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    size = f"0 0 {WIDTH} {bottom + BOTTOM}"
    spoken = escape(f"{panel.title}: {panel.x_label}, one line per variant")
    return f'<svg viewBox="{size}" class="dots" role="group" aria-label="{spoken}">{"".join(parts)}</svg>'


def _line(dot: Dot, y: float, left: float, place: Place, reach: tuple[float, float]) -> list[str]:
    middle = y + 4
    kind = "" if dot.slot is not None else ' class="reference"'
    colour = "var(--ink)" if dot.slot is None else paint(dot.slot)
    note = f"<title>{escape(dot.note)}</title>" if dot.note else ""
    parts = [f"<g{kind}>{note}", f'<text x="{left}" y="{middle:.1f}" text-anchor="end">{escape(dot.label)}</text>']
    for one in dot.beside:
        parts.append(_beside(one, y, place))
    if dot.low is not None and dot.high is not None:
        a, b = place(dot.low), place(dot.high)
        parts.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:{colour}" class="ci"/>')
    parts.append(_mark(dot, place(dot.value), y, colour, reach))
    words = f'<text x="{WIDTH}" y="{middle:.1f}" text-anchor="end">{escape(dot.text)}</text>' if dot.text else ""
    if words and dot.address:
        words = f'<a href="{escape(dot.address)}">{words}</a>'
    return [*parts, words, "</g>"]


def _beside(one: Beside, y: float, place: Place) -> str:
    if one.kind == "twin":
        x = place(one.mean)
        return f'<path class="twin" d="M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"/>'
    half = 2 * (one.sd or 0.0)
    a, b = place(one.mean - half), place(one.mean + half)
    width = max(2.0, b - a)
    return f'<rect class="null" x="{(a + b - width) / 2:.1f}" y="{y - 4:.1f}" width="{width:.1f}" height="8"/>'


def _mark(dot: Dot, x: float, y: float, colour: str, reach: tuple[float, float]) -> str:
    if not reach[0] <= dot.value <= reach[1]:
        way = 7 if dot.value > reach[1] else -7
        return f'<path d="M{x - way / 2:.1f} {y - 4:.1f}l{way} 4l{-way} 4z" style="fill:{colour}"/>'
    if dot.slot is None:
        return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}" class="floor"/>'
    return f'<path style="fill:{colour}" transform="translate({x:.1f} {y:.1f})" d="{marker(dot.slot)}"/>'


def _reach(panel: DotPanel) -> tuple[float, float]:
    """The axis: all variants with their intervals and what they are beside; references only near to them."""
    own = [dot for dot in panel.dots if dot.slot is not None] or list(panel.dots)
    values = [v for dot in own for v in (dot.value, dot.low, dot.high) if v is not None]
    values += [one.mean + s * 2 * (one.sd or 0.0) for dot in own for one in dot.beside for s in (-1, 1)]
    low, high = min(values), max(values)
    near = high - low
    known = [dot.value for dot in panel.dots] + [value for _, value in panel.marks]
    values += [value for value in known if low - near <= value <= high + near]
    low, high = min(values), max(values)
    if panel.limit is not None and low < panel.limit < high:
        high = panel.limit
    pad = 0.03 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad
