"""A neuron graph with its communities, drawn from what stage frontier keeps of it, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from bdh.report.data.inputs import Inputs, RunResults, damaged
from bdh.report.plots.figure import LIGHT, paint

SIDE, MARGIN = 270, 8
ROUNDS, SEED = 160, 0
KEYS = ("of", "neurons", "communities", "edges")


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
    of, neurons, groups, flat = (run.frontier.values.get(f"tmi/drawing/{key}") for key in KEYS)
    whole = all(isinstance(part, list) and all(isinstance(v, int) for v in part) for part in (of, neurons, groups, flat))
    if not whole or len(groups) != len(neurons) or len(flat) % 2 or not flat or not -1 < min(flat) <= max(flat) < len(neurons):
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
