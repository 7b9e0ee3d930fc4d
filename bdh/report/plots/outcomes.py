"""What came out: bits per byte against size and by position, and the curves behind the frontier metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bdh.frontier.registry import METRICS
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.plots.figure import Curve, Panel, slot_of
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
