"""A plot as inline SVG: the same bytes for the same numbers, in the page's colours, labels beside the lines.

A variant has one colour and one line style, the same in every table and every plot. Eight colours for light pages and
eight for dark ones: any two of a set stay at least 24 CIELAB units apart under full protanopia, deuteranopia and
tritanopia (matrices of Machado et al., 2009) and 3:1 in contrast from the page. The ninth variant starts again with
another line style and marker.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bdh.report import formats

LIGHT = ("#3a3ee8", "#9c3f0c", "#00724f", "#821494", "#1f98ff", "#be8d00", "#202a39", "#ff41a9")
DARK = ("#206dff", "#f25206", "#45ff84", "#a25fba", "#a0d2fb", "#fad700", "#f1ffdf", "#dc7d94")
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (2, 3)), (0, (9, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, FAINT = "#010203", "#040506"


def slot_of(variants: Sequence[str], variant: str) -> int:
    """Colour slot of a variant: its place in params.yaml."""
    return list(variants).index(variant)


def paint(slot: int) -> str:
    """Placeholder colour of a slot inside a plot; `themed` turns it into the page's own colour."""
    return f"#fe{slot % len(LIGHT):02x}01"


def dash(slot: int) -> str | tuple[int, tuple[float, ...]]:
    """Line style of a slot."""
    return DASHES[slot // len(LIGHT) % len(DASHES)]


def marker(slot: int) -> str:
    """Marker of a slot."""
    return MARKERS[slot // len(LIGHT) % len(MARKERS)]


def themed(svg: str) -> str:
    """`svg` with the placeholder colours replaced by the page's, so that it follows light and dark mode."""
    for slot in range(len(LIGHT)):
        svg = svg.replace(paint(slot), f"var(--v{slot})")
    return svg.replace(INK, "var(--ink)").replace(FAINT, "var(--rule)")


def swatches(count: int) -> list[tuple[str, int]]:
    """Style of the small line beside a variant's name and its colour slot, for `count` variants."""
    styles = ("3px solid", "3px dashed", "3px dotted", "5px double", "1px dashed", "1px solid")
    return [(styles[slot // len(LIGHT) % len(styles)], slot % len(LIGHT)) for slot in range(count)]


WIDTH, HEIGHT = 6.4, 3.9
FONT = 9.0
LABEL_GAP = 11.5
LEADER = 0.09
NARROW = 1.3
POINTS = 72.0
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hatchery",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.6,
}


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


def draw_panel(panel: Panel) -> str:
    """The plot as inline SVG; empty when no curve has a point."""
    if not any(len(curve.x) for curve in panel.curves):
        return ""
    settings: dict[Any, Any] = dict(mpl.rcParamsDefault) | SETTINGS | {"backend": "svg"}
    with mpl.rc_context(settings):
        return _draw(panel)


def _draw(panel: Panel) -> str:
    labels = [c.label for c in panel.curves if not c.faint] + [text for text, _ in panel.references]
    right = min(0.48, 0.10 + max((len(text) for text in labels), default=0) * FONT * 0.6 / POINTS / WIDTH)
    height = max(HEIGHT, (len(labels) + 2) * LABEL_GAP / POINTS + 0.9)
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    canvas = FigureCanvasSVG(figure)
    axes = figure.add_axes((0.115, 0.5 / height, 0.875 - right, 1 - 0.6 / height), facecolor="none")
    for curve in panel.curves:
        _plot(axes, curve)
    for _, level in panel.references:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    _scales(axes, panel)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    _label_ends(axes, panel)
    buffer = io.StringIO()
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _embedded(buffer.getvalue(), panel)


def _plot(axes: Axes, curve: Curve) -> None:
    colour = paint(curve.slot)
    if curve.points_only:
        axes.plot(curve.x, curve.y, linestyle="", marker=marker(curve.slot), markersize=7, color=colour)
        if curve.low is not None and curve.high is not None:
            axes.vlines(curve.x, curve.low, curve.high, colors=colour, linewidth=1.2)
        return
    few = len(curve.x) <= 30 and not curve.faint
    axes.plot(
        curve.x,
        curve.y,
        color=colour,
        linestyle=dash(curve.slot) if not curve.faint else (0, (1, 2)),
        linewidth=1.0 if curve.faint else 1.6,
        alpha=0.75 if curve.faint else 1.0,
        marker=marker(curve.slot) if few else "",
        markersize=3.2,
    )
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _scales(axes: Axes, panel: Panel) -> None:
    if panel.log_x:
        axes.set_xscale("log")
        left, right = axes.get_xlim()
        if right / left < NARROW:
            axes.set_xlim(left / NARROW, right * NARROW)
    if panel.log_y:
        axes.set_yscale("log")
    evenly = MaxNLocator(7, steps=[1, 2, 2.5, 5, 10])
    for axis, log in ((axes.xaxis, panel.log_x), (axes.yaxis, panel.log_y)):
        if not log:
            axis.set_major_locator(copy(evenly))
            continue
        low, high = axis.get_view_interval()
        marks = (1.0,) if high / low > 1e4 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=marks, numticks=12) if high / low > 5 else copy(evenly))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(tick_label))


def tick_label(value: float, _: int = 0) -> str:
    """A mark of a logarithmic axis: `20 k`, `5`, `0.02`; below a thousandth `1e−5`."""
    for size, prefix in formats.PREFIXES:
        if value >= size:
            return f"{value / size:g} {prefix}"
    return f"{value:g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−")


def _label_ends(axes: Axes, panel: Panel) -> None:
    """Write every label at the right edge, level with the end of its line, moved apart where they would touch."""
    ends = [(c.label, paint(c.slot), c.x[-1], c.y[-1]) for c in panel.curves if not c.faint and len(c.x)]
    edge = axes.get_xlim()[1]
    ends += [(text, INK, edge, level) for text, level in panel.references]
    if not ends:
        return
    pixels = axes.transData.transform([(x, y) for _, _, x, y in ends])
    points = [(py - axes.bbox.y0) / axes.figure.dpi * POINTS for _, py in pixels]
    top = axes.bbox.height / axes.figure.dpi * POINTS
    for (text, colour, x, y), level in zip(ends, spread_apart(points, LABEL_GAP, 0.0, top), strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.0 + LEADER, level / top),
            textcoords="axes fraction",
            color=INK,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.1,
                "relpos": (0.0, 0.5),
                "shrinkA": 0,
            },
        )


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


def _embedded(svg: str, panel: Panel) -> str:
    """`svg` without file headers, with ids of its own, the page's colours and a spoken title."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{panel.name}.\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{panel.name}.\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{panel.name}.\1"', svg)
    size = re.search(r'viewBox="[^"]+"', svg)
    title = escape(f"{panel.title}: {panel.y_label} against {panel.x_label}")
    head = f'<svg {size.group(0) if size else ""} role="img" aria-label="{title}"><title>{title}</title>'
    svg = head + svg[svg.index(">") + 1 :]
    return themed(re.sub(r"\n\s*", "\n", svg))
