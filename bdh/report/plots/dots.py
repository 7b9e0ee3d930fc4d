"""Plots of dots: one line per variant with its value, its interval, and what it is read beside, as inline SVG.

They stand first in a section: bits per byte beside floors and rivals, the living state, metrics beside their nulls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from bdh.frontier.registry import MetricRow
from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import ONE_SEED
from bdh.report.plots.figure import LETTER, Curve, Panel, Place, marker, paint, plain_label, slot_of, ticks
from bdh.report.plots.outcomes import positions

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
                f" {formats.fixed(value)}</title></line>"
            )
    for at, dot in enumerate(panel.dots):
        parts += _line(dot, TOP + ROW * (at + 0.5), left, place, (low, high))
    parts.append(
        f'<text x="{left + GAP + span / 2:.1f}" y="{bottom + 31}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    size = f"0 0 {WIDTH} {bottom + BOTTOM}"
    spoken = escape(f"{panel.title}: {panel.x_label}, one line per variant")
    head = f'<svg viewBox="{size}" class="dots" preserveAspectRatio="xMinYMin meet" role="group" aria-label="{spoken}">'
    return f"{head}{''.join(parts)}</svg>"


def _line(dot: Dot, y: float, left: float, place: Place, reach: tuple[float, float]) -> list[str]:
    middle = y + 4
    kind = "" if dot.slot is not None else ' class="reference"'
    colour = "var(--ink)" if dot.slot is None else paint(dot.slot)
    note = f"<title>{escape(dot.note or dot.label)}</title>"
    most = int((WIDEST_LABEL - GAP) / LETTER)
    label = dot.label if len(dot.label) <= most else f"{dot.label[: most - 1]}…"
    parts = [f"<g{kind}>{note}", f'<text x="{left}" y="{middle:.1f}" text-anchor="end">{escape(label)}</text>']
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


BY_POSITION = ("carry", "overlap", "shuffled")
"""Arms that are drawn by position, in the order of their line styles."""

FEWEST_POINTS = 2


def of_seeds(inputs: Inputs) -> str:
    """What the intervals of a plot of dots are over."""
    if inputs.one_seed:
        return f"Lines: 95 % intervals over the text, this seed only ({ONE_SEED})."
    return "Lines: 95 % intervals over seeds and text; of a variant with one seed over its text."


def quality_dots(inputs: Inputs, corpus: str, results: str) -> DotPanel:
    """Test bits per byte of every variant, and of what knows nothing, counts, or knows everything; lowest first."""
    facts, runs = inputs.facts[corpus], inputs.of(corpus)
    dots = []
    for variant, bits in measures.ranking(inputs, corpus):
        low, high = measures.test_interval(inputs.of(corpus, variant))
        dots.append(
            Dot(
                variant,
                bits.mean,
                low,
                high,
                f"{formats.fixed(bits.mean)} {formats.interval(low, high, 2, sign=False)}".strip(),
                _address(inputs.of(corpus, variant), "hebbian", results),
                slot_of(inputs.variants, variant),
                note=f"{variant}: {bits.n} seed{'' if bits.n == 1 else 's'}",
            )
        )
    ngram, floors = measures.strongest_ngram(facts), f"{results}floors/{corpus}.json"
    known = (
        ("known floor", measures.floor_bits(facts), ""),
        (ngram.title, ngram.bits, floors),
        ("unigram", measures.unigram_bits(facts, runs), ""),
        ("uniform guess", measures.uniform_bits(facts, runs), ""),
    )
    dots += [Dot(name, bits, text=formats.fixed(bits), address=file) for name, bits, file in known if bits is not None]
    return DotPanel(
        f"{corpus}-first",
        corpus,
        "test, bits per byte (lower is better)",
        sorted(dots, key=lambda dot: dot.value),
        [(ngram.title, ngram.bits)],
        limit=measures.unigram_bits(facts, runs),
    )


def recipe_dots(by_recipe: Mapping[str, Inputs], corpus: str, results: str) -> DotPanel:
    """Test bits per byte of every variant under every recipe of a study, lowest first, beside counting."""
    dots: list[Dot] = []
    marks: dict[str, float] = {}
    for recipe, inputs in by_recipe.items():
        if corpus not in inputs.facts:
            continue
        plot = quality_dots(inputs, corpus, f"{recipe}/{results}")
        marks |= dict(plot.marks)
        own = [dot for dot in plot.dots if dot.slot is not None]
        dots += [replace(dot, label=f"{dot.label}, {recipe}") for dot in own]
        dots += [dot for dot in plot.dots if dot.slot is None and dot.label not in {one.label for one in dots}]
    ordered = sorted(dots, key=lambda dot: dot.value)
    return DotPanel(f"{corpus}-first", corpus, "test, bits per byte (lower is better)", ordered, list(marks.items()))


def _address(runs: list[RunResults], stage: str, results: str) -> str:
    """The first run's file of results."""
    found = [run for run in runs if not run.divergence]
    return f"{results}{stage}/{found[0].key}.json" if found else ""


def arm_dots(inputs: Inputs, corpus: str, results: str) -> DotPanel:
    """What carrying the state changes, by variant, beside a moved window and another document's state."""
    dots = []
    for variant in inputs.variants:
        runs = inputs.of(corpus, variant)
        gap = measures.compare_arms(runs, "carry")
        if gap is None:
            continue
        low, high = (gap.low, gap.high) if gap.low is not None else _written(runs)
        other = {arm: measures.compare_arms(runs, arm) for arm in ("overlap", "shuffled")}
        beside = [
            Beside(kind, found.value, None)
            for arm, kind in (("shuffled", "null"), ("overlap", "twin"))
            if (found := other[arm]) is not None
        ]
        words = f"{formats.signed(gap.value)} {formats.interval(low, high)}".strip()
        address = _address(runs, "hebbian", results)
        dots.append(Dot(variant, gap.value, low, high, words, address, slot_of(inputs.variants, variant), beside))
    return DotPanel(
        f"{corpus}-carry",
        "What carrying the state changes",
        "carry minus static, bits per byte",
        dots,
        [("no change", 0.0)],
        note=f"Left of the line: the carried state helps. Hollow: a moved window, no state (overlap). Bar: another"
        f" document's state (shuffled). {of_seeds(inputs)}",
    )


def _written(runs: list[RunResults]) -> tuple[float | None, float | None]:
    """The interval over the text that a single seed has in its file."""
    if len(runs) != 1:
        return None, None
    return runs[0].hebbian.number("arms/carry/ci_low"), runs[0].hebbian.number("arms/carry/ci_high")


def position_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """One small plot per variant with a state: arms minus static by position in the document, mean over seeds."""
    found = []
    for variant in inputs.variants:
        runs = [run for run in inputs.of(corpus, variant) if len(positions(run, "carry")) >= FEWEST_POINTS]
        if not runs:
            continue
        curves = []
        for at, arm in enumerate(BY_POSITION):
            gains = [_gain(run, arm) for run in runs]
            shared = [x for x in gains[0] if all(x in gain for gain in gains)]
            curves.append(Curve(arm, at, shared, [sum(gain[x] for gain in gains) / len(gains) for x in shared]))
        found.append(
            Panel(
                f"{corpus}-arms-by-position-{variant}",
                variant,
                "position in the document, tokens",
                "minus static, bits per byte",
                curves,
            )
        )
    return found


def _gain(run: RunResults, arm: str) -> dict[float, float]:
    static = dict(positions(run, "static"))
    return {x: y - static[x] for x, y in positions(run, arm) if x in static}


def metric_dots(inputs: Inputs, corpus: str, row: MetricRow, results: str) -> DotPanel:
    """One frontier metric: every variant's value with its interval, its nulls as bars, its untrained twins hollow."""
    dots = []
    for variant in inputs.variants:
        runs = inputs.of(corpus, variant)
        value = measures.over(runs, measures.number_of("frontier", f"{row.path}/value"))
        if value is None:
            continue
        lows = [low for run in runs if (low := run.frontier.number(f"{row.path}/ci_low")) is not None]
        highs = [high for run in runs if (high := run.frontier.number(f"{row.path}/ci_high")) is not None]
        dots.append(
            Dot(
                variant,
                value.mean,
                min(lows, default=None),
                max(highs, default=None),
                formats.fixed(value.mean),
                _address(runs, "frontier", results),
                slot_of(inputs.variants, variant),
                _nulls(runs, row.path),
            )
        )
    return DotPanel(
        f"{corpus}-{row.path.replace('/', '-')}-dots",
        f"{row.title} beside its nulls",
        row.title,
        dots,
        note="Dots: trained, with 95 % intervals. Bars: nulls, mean ± 2 sd. Hollow: untrained twins.",
    )


def _nulls(runs: list[RunResults], path: str) -> list[Beside]:
    names = list(dict.fromkeys(name for run in runs for name in run.frontier.children(f"{path}/nulls")))
    places = [("null", f"{path}/nulls/{name}/mean", f"{path}/nulls/{name}/sd") for name in names]
    if not names:
        places = [("null", f"{path}/null_mean", f"{path}/null_sd")]
    places.append(("twin", f"{path}/untrained_mean", f"{path}/untrained_sd"))
    found = []
    for kind, mean_key, sd_key in places:
        mean, sd = (measures.over(runs, measures.number_of("frontier", key)) for key in (mean_key, sd_key))
        if mean is not None:
            found.append(Beside(kind, mean.mean, None if sd is None or kind == "twin" else sd.mean))
    return found
