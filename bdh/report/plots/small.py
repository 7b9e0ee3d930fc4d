"""Small line plots that stand side by side on one scale, as inline SVG: one variant each, one line per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bdh.report.plots.figure import DASHES, Curve, Panel, Place, paint, tick_label, ticks

WIDTH, HEIGHT = 270, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22


def reach_of(panels: Sequence[Panel]) -> tuple[float, float]:
    """Lowest and highest value of several plots, 0 among them, with a margin."""
    values = [y for panel in panels for curve in panel.curves for y in curve.y] + [0.0]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def draw_small(panel: Panel, reach: tuple[float, float]) -> str:
    """One plot over a logarithmic axis of positions (1 and more), with a line at 0; empty without a point."""
    xs = [x for curve in panel.curves for x in curve.x]
    if not xs:
        return ""
    low, high = reach
    last = math.log(max(*xs, 2.0))

    def across(x: float) -> float:
        return LEFT + math.log(x) / last * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(low, high)[::2]:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(tick) + 4:.1f}" text-anchor="end">{_signed(tick)}</text>')
    for power in range(0, int(last / math.log(10)) + 1):
        x = across(10.0**power)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick_label(10.0**power)}</text>')
    parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(0):.1f}" y2="{up(0):.1f}"/>')
    parts += [_path(curve, across, up) for curve in panel.curves if len(curve.x)]
    spoken = escape(f"{panel.title}: {panel.y_label} against {panel.x_label}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="dots" role="img" aria-label="{spoken}">{"".join(parts)}</svg>'


def _path(curve: Curve, across: Place, up: Place) -> str:
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
    dashes = DASHES[curve.slot % len(DASHES)]
    style = f"stroke:{paint(curve.slot)}" + (f";stroke-dasharray:{dashes}" if dashes else "")
    return f'<polyline class="curve" points="{points}" style="{style}"><title>{escape(curve.label)}</title></polyline>'


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-12 else "0"
