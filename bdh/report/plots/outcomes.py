"""What came out: bits per byte against size and by position, the curves behind the frontier metrics, neuron graphs.

Small pictures stand side by side, on one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from bdh.frontier.registry import METRICS
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults, damaged
from bdh.report.plots.figure import DASHES, LIGHT, Curve, Panel, Place, paint, slot_of, tick_label, ticks
from bdh.report.plots.training import levels
from bdh.report.tables.arms import sweep_panel


@dataclass(frozen=True)
class Family:
    """Curves of one metric that share their axes: those whose series begins with `series`."""

    metric: str
    series: str
    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False


BY_POSITION = "bits_per_byte_by_position"
FAMILIES = tuple(
    Family(metric.name, axes.series, axes.title, axes.x_label, axes.y_label, axes.log_x, axes.log_y)
    for metric in METRICS
    for axes in metric.axes
)


def outcome_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """All plots of the results on one corpus."""
    return [*size_panels(inputs, corpus), *state_panels(inputs, corpus), *curve_panels(inputs, corpus)]


def size_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Quality against parameters and against the operations of the whole training."""
    return [
        _against(inputs, corpus, "parameters", "size", "parameters", measures.parameters),
        _against(inputs, corpus, "flops", "work", "operations of the training, FLOP", measures.training_flops),
    ]


def state_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Bits per byte by position in the document, what carrying the state changes there, and by its damping."""
    return [
        sweep_panel(inputs, corpus),
        _positions(inputs, corpus, "static"),
        _positions(inputs, corpus, "carry"),
        _carry_gain(inputs, corpus, "static"),
        _carry_gain(inputs, corpus, "overlap"),
    ]


def curve_panels(inputs: Inputs, corpus: str, metric: str | None = None) -> list[Panel]:
    """The curves behind one frontier metric, or behind all of them and those that no metric of the registry has."""
    families = (*FAMILIES, *_others(inputs.of(corpus)))
    return [_curves(inputs, corpus, family) for family in families if metric in (None, family.metric)]


def _others(runs: Sequence[RunResults]) -> list[Family]:
    """A family for every metric that FAMILIES does not know; positions have plots of their own."""
    names = {str(name) for run in runs for name in run.curves["metric"].unique()}
    known = {family.metric for family in FAMILIES} | {BY_POSITION}
    return [Family(name, "", name, "x", "y") for name in sorted(names - known)]


def positions(run: RunResults, arm: str) -> list[tuple[float, float]]:
    """(position in the document in tokens, bits per byte) of one arm; empty when it was not measured."""
    rows = run.hebbian.rows(f"arms/{arm}/by_position", "from", "bits_per_byte")
    return [(float(row["from"]), float(row["bits_per_byte"])) for row in rows if row["bits_per_byte"] is not None]


def _against(inputs: Inputs, corpus: str, name: str, word: str, label: str, measure: measures.Measure) -> Panel:
    points = []
    for variant in inputs.variants:
        runs = inputs.of(corpus, variant)
        size, bits = measures.over(runs, measure), measures.over(runs, measures.test_bits)
        if size is None or bits is None:
            continue
        low = None if bits.half is None else [bits.mean - bits.half]
        high = None if bits.half is None else [bits.mean + bits.half]
        slot = slot_of(inputs.variants, variant)
        points.append(Curve(variant, slot, [size.mean], [bits.mean], low, high, points_only=True))
    worst = measures.unigram_bits(inputs.facts[corpus], inputs.of(corpus))
    beyond = [point for point in points if worst is not None and point.y[0] > worst]
    points = [point for point in points if point not in beyond] or points
    drawn, outside = levels(inputs, corpus, [y for point in points for y in point.y])
    if beyond:
        outside += f" Worse than the unigram, not drawn: {', '.join(f'{p.label} {p.y[0]:.3f}' for p in beyond)}."
    bars = any(point.low is not None for point in points)
    seeds = "Bars: 95 % t interval of the mean over seeds." if bars else "One seed each."
    return Panel(
        f"{corpus}-{name}",
        f"Test bits per byte against {word}",
        label,
        "test, bits per byte",
        points,
        drawn,
        log_x=True,
        note=f"{seeds} {outside}".strip(),
    )


def _positions(inputs: Inputs, corpus: str, arm: str) -> Panel:
    return Panel(
        f"{corpus}-position-{arm}",
        f"Bits per byte by position in the document, arm {arm}",
        "position in the document, tokens",
        "test, bits per byte",
        _mean_lines(inputs, corpus, lambda run: positions(run, arm)),
        log_x=True,
    )


def _carry_gain(inputs: Inputs, corpus: str, against: str) -> Panel:
    def gain(run: RunResults) -> list[tuple[float, float]]:
        other = dict(positions(run, against))
        return [(x, y - other[x]) for x, y in positions(run, "carry") if x in other]

    beyond = {"static": "", "overlap": " beyond a moved window"}[against]
    return Panel(
        f"{corpus}-position-gain{'-overlap' if beyond else ''}",
        f"What carrying the state changes{beyond}, by position",
        "position in the document, tokens",
        f"carry minus {against}, bits per byte",
        _mean_lines(inputs, corpus, gain),
        [("no change", 0.0)],
        log_x=True,
        note="Below the line: the carried state helps.",
    )


def _mean_lines(
    inputs: Inputs, corpus: str, points_of: Callable[[RunResults], list[tuple[float, float]]]
) -> list[Curve]:
    lines = []
    for variant in inputs.variants:
        found = [pairs for run in inputs.of(corpus, variant) if (pairs := points_of(run))]
        if not found:
            continue
        shared = [x for x, _ in found[0] if all(x in dict(pairs) for pairs in found)]
        means = [sum(dict(pairs)[x] for pairs in found) / len(found) for x in shared]
        lines.append(Curve(variant, slot_of(inputs.variants, variant), shared, means))
    return lines


def _curves(inputs: Inputs, corpus: str, family: Family) -> Panel:
    """The first seed of every variant: its first series in full, its nulls and twins faint and without labels."""
    lines, others = [], []
    for variant in inputs.variants:
        run = next((run for run in inputs.of(corpus, variant) if len(run.curves)), None)
        if run is None:
            continue
        chosen = run.curves[run.curves["metric"] == family.metric].dropna(subset=["x", "y"])
        chosen = chosen[chosen["series"].astype(str).str.startswith(family.series)]
        for place, (series, rows) in enumerate(chosen.groupby("series", sort=False)):
            rows = rows.sort_values("x", kind="stable")
            slot = slot_of(inputs.variants, variant)
            lines.append(Curve(variant, slot, rows["x"].tolist(), rows["y"].tolist(), faint=place > 0))
            others += [str(series)] if place else []
    name = f"{corpus}-{family.metric}-{family.series}".strip("-").replace("_", "-")
    note = f"Thin dotted lines of the same colour: {', '.join(dict.fromkeys(others))}." if others else ""
    log_x = family.log_x and all(x > 0 for line in lines for x in line.x)
    log_y = family.log_y and all(y > 0 for line in lines for y in line.y)
    return Panel(name, family.title, family.x_label, family.y_label, lines, log_x=log_x, log_y=log_y, note=note)


WIDTH, HEIGHT = 270, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22
SIDE, MARGIN = 270, 8
ROUNDS, SEED = 160, 0
KEYS = ("of", "neurons", "communities", "edges")


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


def graph_drawings(inputs: Inputs, corpus: str) -> list[tuple[str, str]]:
    """(variant, SVG) of the first run of every variant whose graph was kept."""
    found = []
    for variant in inputs.variants:
        run = next((run for run in inputs.of(corpus, variant) if "tmi/drawing/edges" in run.frontier.values), None)
        if run is not None:
            found.append((variant, draw_graph(run)))
    return found


def draw_graph(run: RunResults) -> str:
    """The graph of one run; RunError when what is kept of it is not whole."""
    of, neurons, groups, flat = (_numbers(run, key) for key in KEYS)
    if (
        len(of) != 2
        or len(groups) != len(neurons)
        or len(flat) % 2
        or not flat
        or not -1 < min(flat) <= max(flat) < len(neurons)
    ):
        raise damaged(run.frontier.path, "tmi/drawing is no graph")
    pairs = np.array(flat, dtype=np.int64).reshape(-1, 2)
    kept, pairs = np.unique(pairs, return_inverse=True)
    pairs, groups = pairs.reshape(-1, 2), [groups[at] for at in kept]
    places = MARGIN + layout(np.array(groups, dtype=np.int64), pairs) * (SIDE - 2 * MARGIN)
    parts = [_edges(places, pairs, groups)]
    degree = np.bincount(pairs.reshape(-1), minlength=len(groups))
    for (x, y), group, size in zip(places, groups, degree, strict=True):
        radius = 2.0 + min(3.5, 0.45 * float(size) ** 0.5)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" style="fill:{_colour(group)}"/>')
    spoken = escape(f"Neuron graph of {run.variant}: {len(groups)} of {of[0]} neurons, {len(pairs)} of {of[1]} edges")
    return f'<svg viewBox="0 0 {SIDE} {SIDE}" class="dots" role="img" aria-label="{spoken}">{"".join(parts)}</svg>'


def _numbers(run: RunResults, key: str) -> list[int]:
    found = run.frontier.values.get(f"tmi/drawing/{key}")
    return found if isinstance(found, list) and all(isinstance(value, int) for value in found) else []


def _colour(group: int) -> str:
    """One colour for each of the eight largest communities, grey for all others."""
    return paint(group) if group < len(LIGHT) else "var(--shadow)"


def _edges(places: np.ndarray, pairs: np.ndarray, groups: Sequence[int]) -> str:
    """Edges inside a community in its colour, edges between two in grey; one path for each colour."""
    paths: dict[str, list[str]] = {}
    for a, b in pairs:
        colour = _colour(groups[a]) if groups[a] == groups[b] else "var(--shadow)"
        (x, y), (u, v) = places[a], places[b]
        paths.setdefault(colour, []).append(f"M{x:.1f} {y:.1f}L{u:.1f} {v:.1f}")
    return "".join(f'<path class="edge" style="stroke:{colour}" d="{"".join(d)}"/>' for colour, d in paths.items())


def layout(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Places in the unit square (n,2): springs along edges, repulsion between all, communities begin side by side.

    Source: Fruchterman & Reingold (1991), Software: Practice and Experience 21.
    """
    n = groups.size
    angle = 2 * np.pi * groups / (groups.max() + 1)
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.25 * np.random.default_rng(SEED).standard_normal((n, 2))
    rest = 2.0 / np.sqrt(n)
    for turn in range(ROUNDS):
        apart = at[:, None] - at[None]
        far = np.maximum(np.sqrt((apart**2).sum(-1)), 1e-3)
        force = (apart * (rest**2 / far**2)[..., None]).sum(1) - 0.6 * at
        along = at[pairs[:, 1]] - at[pairs[:, 0]]
        pull = along * (np.sqrt((along**2).sum(1, keepdims=True)) / rest) * 0.25
        np.add.at(force, pairs[:, 0], pull)
        np.add.at(force, pairs[:, 1], -pull)
        size = np.maximum(np.sqrt((force**2).sum(1, keepdims=True)), 1e-9)
        at = at + force / size * np.minimum(size, 0.12 * (1 - turn / ROUNDS))
    low, high = at.min(0), at.max(0)
    return (at - low) / np.maximum(high - low, 1e-9)
