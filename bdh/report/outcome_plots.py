"""What came out: bits per byte against size and by position, and the curves behind the frontier metrics."""

from __future__ import annotations

from collections.abc import Sequence

from bdh.report import measures
from bdh.report.figure import Curve, Panel
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of

AXES = {
    "tmi": ("Modularity of the neuron graph (TMI)", "share of entries kept as edges", "modularity Q", True),
    "sps": ("Similarity of state snapshots (SPS)", "lag, snapshots", "mean similarity", True),
    "sec": ("Density and surprise (SEC)", "surprisal, nats", "density", False),
}


def outcome_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Plots of the results on one corpus."""
    return [
        _against_parameters(inputs, corpus),
        _positions(inputs, corpus, "static"),
        _positions(inputs, corpus, "carry"),
        _carry_gain(inputs, corpus),
        *(_curves(inputs, corpus, metric) for metric in curve_metrics(inputs.of(corpus))),
    ]


def curve_metrics(runs: Sequence[Run]) -> list[str]:
    """Names of the metrics that some run recorded a curve for, sorted."""
    return sorted({str(name) for run in runs if run.curves is not None for name in run.curves["metric"].unique()})


def positions(run: Run, arm: str) -> list[tuple[float, float]]:
    """(position in the document in tokens, bits per byte) of one arm; empty when it was not measured."""
    rows = run.hebbian.values.get(f"arms/{arm}/by_position")
    if not isinstance(rows, list):
        return []
    pairs = []
    for place, row in enumerate(rows):
        if isinstance(row, dict):
            x = next((row[name] for name in ("from", "position") if name in row), place)
            pairs.append((x, row.get("bits_per_byte")))
        else:
            pairs.append((place, row))
    return [(float(x), float(y)) for x, y in pairs if isinstance(x, int | float) and isinstance(y, int | float)]


def _against_parameters(inputs: Inputs, corpus: str) -> Panel:
    points = []
    for variant in inputs.variants:
        runs = inputs.of(corpus, variant)
        size, bits = measures.over(runs, measures.parameters), measures.over(runs, measures.test_bits)
        if size is None or bits is None:
            continue
        low = None if bits.sd is None else [bits.mean - bits.sd]
        high = None if bits.sd is None else [bits.mean + bits.sd]
        slot = slot_of(inputs.variants, variant)
        points.append(Curve(variant, slot, [size.mean], [bits.mean], low, high, points_only=True))
    return Panel(
        f"{corpus}-parameters",
        "Test bits per byte against size",
        "parameters",
        "test, bits per byte",
        points,
        log_x=True,
        note="Bars: one standard deviation over seeds." if any(p.low is not None for p in points) else "One seed each.",
    )


def _positions(inputs: Inputs, corpus: str, arm: str) -> Panel:
    return Panel(
        f"{corpus}-position-{arm}",
        f"Bits per byte by position in the document, arm {arm}",
        "position in the document, tokens",
        "test, bits per byte",
        _mean_lines(inputs, corpus, lambda run: positions(run, arm)),
    )


def _carry_gain(inputs: Inputs, corpus: str) -> Panel:
    def gain(run: Run) -> list[tuple[float, float]]:
        static = dict(positions(run, "static"))
        return [(x, y - static[x]) for x, y in positions(run, "carry") if x in static]

    return Panel(
        f"{corpus}-position-gain",
        "What carrying the state changes, by position",
        "position in the document, tokens",
        "carry minus static, bits per byte",
        _mean_lines(inputs, corpus, gain),
        [("no change", 0.0)],
        note="Below the line: the carried state helps.",
    )


def _mean_lines(inputs: Inputs, corpus: str, pairs_of: object) -> list[Curve]:
    lines = []
    for variant in inputs.variants:
        found = [pairs for run in inputs.of(corpus, variant) if (pairs := pairs_of(run))]  # type: ignore[operator]
        if not found:
            continue
        shared = [x for x, _ in found[0] if all(x in dict(pairs) for pairs in found)]
        means = [sum(dict(pairs)[x] for pairs in found) / len(found) for x in shared]
        lines.append(Curve(variant, slot_of(inputs.variants, variant), shared, means))
    return lines


def _curves(inputs: Inputs, corpus: str, metric: str) -> Panel:
    title, x_label, y_label, log_x = AXES.get(metric, (metric, "x", "y", False))
    lines = []
    for variant in inputs.variants:
        run = next((run for run in inputs.of(corpus, variant) if run.curves is not None), None)
        if run is None or run.curves is None:
            continue
        chosen = run.curves[run.curves["metric"] == metric].dropna(subset=["x", "y"])
        for place, (series, rows) in enumerate(chosen.groupby("series", sort=False)):
            rows = rows.sort_values("x")
            slot = slot_of(inputs.variants, variant)
            label = variant if place == 0 else f"{variant}, {series}"
            lines.append(Curve(label, slot, rows["x"].tolist(), rows["y"].tolist(), faint=place > 0))
    log_x = log_x and all(x > 0 for line in lines for x in line.x)
    return Panel(f"{corpus}-{metric}".replace("_", "-"), title, x_label, y_label, lines, log_x=log_x)
