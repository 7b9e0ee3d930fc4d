"""A plot as inline SVG: the same bytes for the same numbers, in the page's colours, labels beside the lines.

Written by hand: text keeps the size of the page, colours follow light and dark mode, and a page of sixty plots is made
in a second. A variant has one colour, one line style and one shape, the same in every table and every plot. Eight
colours for light pages and eight for dark ones: any two of a set stay at least 24 CIELAB units apart under full
protanopia, deuteranopia and tritanopia (matrices of Machado et al., 2009) and 3:1 in contrast from the page. The ninth
variant starts again with another line style and shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bdh.report import formats

LIGHT = ("#3a3ee8", "#9c3f0c", "#00724f", "#821494", "#1f98ff", "#be8d00", "#202a39", "#ff41a9")
DARK = ("#206dff", "#f25206", "#45ff84", "#a25fba", "#a0d2fb", "#fad700", "#f1ffdf", "#dc7d94")
DASHES = ("", "6 3", "1.5 2.5", "8 3 2 3", "3 4", "10 3 2 3 2 3")
SHAPES = (
    "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5l5 9h-10z",
    "M0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z",
    "M0 5l5 -9h-10z",
    "M-1.6 -5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
)
Place = Callable[[float], float]


def slot_of(variants: Sequence[str], variant: str) -> int:
    """Colour slot of a variant: its place in params.yaml."""
    return list(variants).index(variant)


def paint(slot: int) -> str:
    """Colour of a slot, as the page's style sheet names it."""
    return f"var(--v{slot % len(LIGHT)})"


def dash(slot: int) -> str:
    """Line style of a slot, as SVG writes it; empty for a whole line."""
    return DASHES[slot // len(LIGHT) % len(DASHES)]


def marker(slot: int) -> str:
    """Shape of a slot, a path around 0,0."""
    return SHAPES[slot // len(LIGHT) % len(SHAPES)]


def swatches(count: int) -> list[tuple[str, int]]:
    """Style of the small line beside a variant's name and its colour slot, for `count` variants."""
    styles = ("3px solid", "3px dashed", "3px dotted", "5px double", "1px dashed", "1px solid")
    return [(styles[slot // len(LIGHT) % len(styles)], slot % len(LIGHT)) for slot in range(count)]


WIDTH, HEIGHT = 560, 300
LEFT, TOP, BOTTOM = 58, 10, 40
LETTER = 6.9
LABEL_GAP = 13.5
LEADER = 22
MOST_MARKED = 12
NARROW = 1.3
TICKS = 6


@dataclass(frozen=True)
class Curve:
    """One line: its label, colour slot, points, and its band (low, high) if it has one. Faint lines carry no label."""

    label: str
    slot: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    faint: bool = False
    points_only: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot: what it shows (title), its axes, its curves, horizontal reference lines, and a note below it."""

    name: str
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    references: Sequence[tuple[str, float]] = ()
    log_x: bool = False
    log_y: bool = False
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """One axis: from `low` to `high`, drawn between the pixels `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def marks(self) -> list[tuple[float, str]]:
        """Values that are marked, with their words."""
        if not self.log:
            found = ticks(self.low, self.high)
            return [(value, plain_label(value, self.high - self.low)) for value in found]
        ratio = self.high / self.low
        steps = (1.0,) if ratio > 1e4 else (1.0, 2.0, 5.0)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [step * 10.0**decade for decade in decades for step in steps]
        if ratio <= 5:
            found = ticks(self.low, self.high)
        return [(value, tick_label(value)) for value in found if self.low <= value <= self.high]


def draw_panel(panel: Panel) -> str:
    """The plot as inline SVG; empty when no curve has a point."""
    if not any(len(curve.x) for curve in panel.curves):
        return ""
    labels = [c.label for c in panel.curves if not c.faint] + [text for text, _ in panel.references]
    right = max((len(text) for text in labels), default=0) * LETTER + LEADER + 6
    height = max(HEIGHT, TOP + (len(labels) + 1) * LABEL_GAP + BOTTOM)
    across = _scale([x for curve in panel.curves for x in curve.x], LEFT, WIDTH - right, panel.log_x)
    values = [y for curve in panel.curves for side in (curve.y, curve.low, curve.high) for y in side or ()]
    up = _scale([*values, *(level for _, level in panel.references)], height - BOTTOM, TOP, panel.log_y)
    parts = [*_axes(panel, across, up)]
    for _, level in panel.references:
        parts.append(f'<path class="mark" d="M{LEFT} {up(level):.1f}H{across.end:.1f}"/>')
    for curve in panel.curves:
        parts += _curve(curve, across, up)
    parts += _labels(panel, across, up, height)
    spoken = escape(f"{panel.title}: {panel.y_label} against {panel.x_label}")
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" class="lines" role="img" aria-label="{spoken}">'
    return f"{head}{''.join(parts)}</svg>"


def _scale(values: Sequence[float], start: float, end: float, log: bool) -> Scale:
    low, high = min(values), max(values)
    if log:
        if high / low < NARROW:
            return Scale(low / NARROW, high * NARROW, start, end, True)
        margin = (high / low) ** 0.04
        return Scale(low / margin, high * margin, start, end, True)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - margin, high + margin, start, end)


def _axes(panel: Panel, across: Scale, up: Scale) -> list[str]:
    parts, bottom = [], up.start
    for value, words in across.marks():
        x = across(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom:.1f}"/>')
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{words}</text>')
    for value, words in up.marks():
        y = up(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{across.end:.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>')
    middle, centre = (across.start + across.end) / 2, (TOP + bottom) / 2
    return [
        *parts,
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom:.1f}H{across.end:.1f}"/>',
        f'<text x="{middle:.1f}" y="{bottom + 33:.1f}" text-anchor="middle">{escape(panel.x_label)}</text>',
        f'<text transform="translate(12 {centre:.1f}) rotate(-90)" text-anchor="middle">{escape(panel.y_label)}</text>',
    ]


def _curve(curve: Curve, across: Scale, up: Scale) -> list[str]:
    if not len(curve.x):
        return []
    colour, pixels = paint(curve.slot), [(across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    title = f"<title>{escape(curve.label)}</title>"
    if curve.points_only:
        parts = [_shape(curve.slot, x, y) for x, y in pixels]
        for (x, _), low, high in zip(pixels, curve.low or (), curve.high or (), strict=False):
            parts.append(f'<path class="ci" style="stroke:{colour}" d="M{x:.1f} {up(low):.1f}V{up(high):.1f}"/>')
        return ["<g>", title, *parts, "</g>"]
    parts = []
    if curve.low is not None and curve.high is not None:
        edge = [(across(x), up(y)) for x, y in zip(curve.x, curve.low, strict=True)]
        back = [(across(x), up(y)) for x, y in zip(curve.x, curve.high, strict=True)][::-1]
        parts.append(f'<polygon class="band" style="fill:{colour}" points="{_points([*edge, *back])}"/>')
    dashes = "1 2.5" if curve.faint else dash(curve.slot)
    style = f"stroke:{colour}" + (f";stroke-dasharray:{dashes}" if dashes else "")
    kind = "curve faint" if curve.faint else "curve"
    parts.append(f'<polyline class="{kind}" style="{style}" points="{_points(pixels)}">{title}</polyline>')
    if len(pixels) <= MOST_MARKED and not curve.faint:
        circles = "".join(f"M{x - 2:.1f} {y:.1f}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0" for x, y in pixels)
        parts.append(f'<path style="fill:{colour}" d="{circles}"/>')
    return parts


def _points(pixels: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)


def _shape(slot: int, x: float, y: float) -> str:
    return f'<path style="fill:{paint(slot)}" transform="translate({x:.1f} {y:.1f})" d="{marker(slot)}"/>'


def _labels(panel: Panel, across: Scale, up: Scale, height: float) -> list[str]:
    """Every label at the right edge, level with the end of its line, moved apart where they would touch."""
    ends = [(c.label, c.slot, c.x[-1], c.y[-1], c.points_only) for c in panel.curves if not c.faint and len(c.x)]
    right = across.end + LEADER
    found = [(label, paint(slot), across(x), up(y), lone) for label, slot, x, y, lone in ends]
    found += [(text, "var(--soft)", across.end, up(level), False) for text, level in panel.references]
    levels = spread_apart([y for *_, y, _ in found], LABEL_GAP, TOP, height - BOTTOM)
    parts = []
    for (text, colour, x, y, lone), level in zip(found, levels, strict=True):
        kind = "leader lone" if lone else "leader"
        parts.append(
            f'<path class="{kind}" style="stroke:{colour}" d="M{x + 3:.1f} {y:.1f}L{right - 3:.1f} {level:.1f}"/>'
        )
        parts.append(f'<text x="{right:.1f}" y="{level + 4:.1f}">{escape(text)}</text>')
    return parts


def ticks(low: float, high: float) -> list[float]:
    """At most six round numbers between two values."""
    step = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= TICKS)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def plain_label(value: float, span: float) -> str:
    """A mark of an even axis that is `span` long: `0.25`, `−3`, `20 k`."""
    if abs(value) >= formats.PREFIXES[-1][0]:
        return f"{'−' if value < 0 else ''}{tick_label(abs(value))}"
    digits = max(0, min(9, 1 - math.floor(math.log10(span))))
    text = formats.fixed(round(value, digits) + 0.0, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def tick_label(value: float) -> str:
    """A mark of a logarithmic axis: `20 k`, `5`, `0.02`; below a thousandth `1e−5`."""
    for size, prefix in formats.PREFIXES:
        if value >= size:
            return f"{value / size:g} {prefix}"
    return f"{value:g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−")


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `wanted` and near it, inside low..high where there is room."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed: list[float] = []
    for i in order:
        floor = placed[-1] + gap if placed else low
        placed.append(max(wanted[i], floor))
    ceiling = high
    for k in range(len(placed) - 1, -1, -1):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    result = [0.0] * len(wanted)
    for i, position in zip(order, placed, strict=True):
        result[i] = position
    return result
