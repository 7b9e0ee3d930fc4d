"""What stands first in a section: bits per byte beside floors and rivals, the living state, metrics beside their nulls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bdh.frontier.registry import MetricRow
from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import ONE_SEED
from bdh.report.plots.dots import Beside, Dot, DotPanel
from bdh.report.plots.figure import Curve, Panel, slot_of
from bdh.report.plots.outcomes import positions

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
    dots, marks = [], {}
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
    """What carrying the state changes, by variant, beside a moved window (hollow) and another document's state (bar)."""
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
        note=f"Left of the line: the carried state helps. Hollow: a moved window without a state (overlap). Bar: another"
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
