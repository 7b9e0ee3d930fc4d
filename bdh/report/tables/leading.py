"""The headline table: one line per variant on one corpus with the numbers that people ask for first, best on top.

And how sparse the activity is, what it costs in time and memory, and the search of settings: how many draws every
variant had, and what the best of them gave on validation data.
"""

from __future__ import annotations

from collections.abc import Callable

from bdh.params.trials import Search
from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults, divergences
from bdh.report.data.measures import BASE
from bdh.report.data.spread import Spread, over_seeds
from bdh.report.plots.figure import slot_of
from bdh.report.tables.quality import Standing, spread_cell, standings
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell

COLUMNS = (
    Column("test", "bits per byte", "Held-out text, state reset at every window. Lower is better.", "hebbian"),
    Column("minus n-gram", "bits per byte", "Minus the strongest n-gram model: negative beats counting.", "hebbian"),
    Column("minus bdh", "bits per byte", "Paired by seed and text, 95 % interval, verdict.", "hebbian"),
    Column("carry minus static", "bits per byte", "Negative: the carried state helps.", "hebbian"),
    Column("active", "share", "Share of active neurons, innermost activation, held-out text.", "frontier"),
    Column("parameters", "", "Tied parameters counted once.", "train"),
    Column("forward work", "FLOP per token", "", "train"),
    Column("speed", "tokens per s", "In training, on the machine named above.", "timing"),
    Column("time", "s", "Of training, on the machine named above.", "timing"),
)
INNERMOST = ("xy_sparse", "y_sparse", "mlp_sparse", "x_sparse")


def leading_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant, lowest bits per byte first, then what counting and the generator itself reach."""
    beside = standings(inputs, corpus)
    order = [variant for variant, _ in measures.ranking(inputs, corpus)]
    order += [variant for variant in inputs.variants if variant not in order]
    facts = inputs.facts[corpus]
    ngram = measures.strongest_ngram(facts)
    known: list[tuple[str, float | None, str]] = [
        (ngram.title, ngram.bits, f"floors/{corpus}.json"),
        ("unigram", measures.unigram_bits(facts, inputs.of(corpus)), ""),
        ("known floor", measures.floor_bits(facts), ""),
    ]
    rows = [_row(inputs, corpus, variant, beside.get(variant)) for variant in order]
    for title, bits, file in known:
        if bits is not None:
            gap = Cell(formats.signed(bits - ngram.bits), bits - ngram.bits)
            cells = [Cell(formats.fixed(bits), bits), gap, *(missing_cell() for _ in COLUMNS[2:])]
            rows.append(Row(title, cells, reference=True, file=file))
    return Table(
        f"{corpus}-leading",
        f"{corpus}: every variant, lowest bits per byte first",
        COLUMNS,
        rows,
        notes=["A number leads to the results of its run. A heading sorts."],
        filtered=True,
    )


def _row(inputs: Inputs, corpus: str, variant: str, standing: Standing | None) -> Row:
    runs, reason = inputs.of(corpus, variant), divergences(inputs.of(corpus, variant))
    slot = slot_of(inputs.variants, variant)
    if standing is None:
        word = reason.partition(":")[0] or "no result yet"
        cells = [Cell(word, None, reason or word), *(missing_cell(reason) for _ in COLUMNS[1:])]
        return Row(variant, cells, slot, note=reason, runs=keys_of(runs))
    counted = standing.bits.mean - measures.strongest_ngram(inputs.facts[corpus]).bits
    low, high = measures.test_interval(runs)
    bits = Cell(
        formats.fixed(standing.bits.mean),
        standing.bits.mean,
        detail=formats.deviation(standing.bits) or formats.interval(low, high, sign=False),
    )
    return Row(
        variant,
        [
            bits,
            Cell(formats.signed(counted), counted, tone="none" if counted < 0 else "bad"),
            _beside_bdh(variant, standing),
            _carry(inputs, corpus, variant),
            _active(inputs, corpus, variant),
            _number(inputs, corpus, variant, "train", "parameters", True),
            _number(inputs, corpus, variant, "train", "flops_per_token_forward", True),
            _number(inputs, corpus, variant, "timing", "tokens_per_s", False),
            _number(inputs, corpus, variant, "timing", "seconds", False),
        ],
        slot,
        note=reason,
        runs=keys_of(runs),
    )


def _beside_bdh(variant: str, standing: Standing) -> Cell:
    gap = standing.gap
    if gap is None:
        return missing_cell("the base of the comparison" if variant == BASE else "bdh has no result on this corpus")
    parts = (formats.interval(gap.low, gap.high), standing.verdict.word if gap.seeds > 1 else "")
    return Cell(
        formats.signed(gap.value), gap.value, tone=standing.verdict.tone, detail="\n".join(p for p in parts if p)
    )


def _carry(inputs: Inputs, corpus: str, variant: str) -> Cell:
    gap = measures.compare_arms(inputs.of(corpus, variant), "carry")
    if gap is None:
        return missing_cell("no state of constant size, or not run")
    verdict = measures.judge(inputs, ("arm", corpus, variant, "carry"), gap)
    parts = (formats.interval(gap.low, gap.high), verdict.word if gap.seeds > 1 else "")
    return Cell(formats.signed(gap.value), gap.value, tone=verdict.tone, detail="\n".join(p for p in parts if p))


def _active(inputs: Inputs, corpus: str, variant: str) -> Cell:
    runs = inputs.of(corpus, variant)
    for tap in INNERMOST:
        value = measures.over(runs, lambda run, tap=tap: measures.density(run, tap))  # type: ignore[misc]
        if value is not None:
            return Cell(formats.percent(value.mean), value.mean, f"non-zeros of {tap}")
    return missing_cell("the variant has no such activation")


def _number(inputs: Inputs, corpus: str, variant: str, stage: str, key: str, scaled: bool) -> Cell:
    value = measures.over(inputs.of(corpus, variant), measures.number_of(stage, key))
    if value is None:
        return missing_cell("not recorded")
    if not scaled:
        return spread_cell(value, 0) if value.n == 1 else Cell(formats.whole(value.mean), value.mean)
    return Cell(formats.scaled(value.mean, "").strip(), value.mean)


SEARCH_COLUMNS = (
    Column("draws", "trials", "Settings tried, from one written space, the same number for every variant."),
    Column("reference", "validation bits per byte", "Draw 0: the settings of recipe reference."),
    Column("best draw", "validation bits per byte", "The settings of recipe tuned."),
    Column("gain", "bits per byte", "Best draw minus reference. Negative: the search found better settings."),
    Column("settings of the best draw"),
)
NONE_BETTER = "those of recipe reference"


def search_tables(inputs: Inputs) -> list[Table]:
    """One table per corpus that was searched at the scale of the page."""
    return [table for corpus in inputs.corpora if (table := _search(inputs, corpus))]


def _search(inputs: Inputs, corpus: str) -> Table | None:
    searched = {name: inputs.searches[name, corpus] for name in inputs.variants if (name, corpus) in inputs.searches}
    if not searched:
        return None
    used = "are" if inputs.recipe == "tuned" else "are not"
    notes = [
        f"One training each, seed 0, judged on validation data. The settings found {used} those of the runs on this"
        f" page (recipe: {inputs.recipe}). docs/tuning.csv holds every draw."
    ]
    without = [name for name in inputs.variants if name not in searched]
    if without:
        notes.append(f"Not searched: {', '.join(without)}.")
    rows = [Row(name, _found(found), slot_of(inputs.variants, name)) for name, found in searched.items()]
    return Table(f"{corpus}-search", f"{corpus}: search of settings", SEARCH_COLUMNS, rows, notes=notes)


def _found(found: Search) -> list[Cell]:
    gain = None if found.own is None or found.best is None else found.best - found.own
    chosen = ", ".join(f"{name.split('.', 1)[1]} {value}" for name, value in found.settings.items())
    told = chosen or (NONE_BETTER if found.best_draw == 0 else "")
    return [
        Cell(str(found.draws), found.draws),
        *(missing_cell("diverged") if value is None else Cell(formats.fixed(value), value)
          for value in (found.own, found.best)),
        missing_cell("diverged") if gain is None else Cell(formats.signed(gain), gain),
        Cell(told or formats.ABSENT, told or None),
    ]  # fmt: skip


COSTS = (
    Column("dead neurons", "share", "Neurons that never fire on the held-out text.", "frontier"),
    Column("zero weights", "share", "Weights that are exactly zero.", "frontier"),
    Column("training speed", "tokens per s", "Wall clock on the machine named above; not repeated.", "timing"),
    Column("peak memory", "", "Largest memory of the training process, or of the GPU.", "timing"),
    Column("state of a stream", "", "Bytes that one stream carries before it has read anything.", "train"),
)


def activity_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant on one corpus: density per activation, dead neurons, speed, memory."""
    names = [name for name in measures.taps(inputs.of(corpus)) if name.endswith("_sparse")]
    columns = [
        Column(f"density of {name.removesuffix('_sparse')}", "share", f"Non-zeros of {name}.", "frontier")
        for name in names
    ]
    rows = [_active_row(inputs, corpus, variant, names) for variant in inputs.variants]
    return Table(
        f"{corpus}-activity",
        f"{corpus}: activity and cost",
        [*columns, *COSTS],
        rows,
        notes=["Densities are means over layers on held-out text. Speed and memory are single measurements."],
    )


def _active_row(inputs: Inputs, corpus: str, variant: str, names: list[str]) -> Row:
    runs = inputs.of(corpus, variant)
    reason = divergences(runs) or "the variant has no such activation"
    cells = [_share(over_seeds(measures.density(run, name) for run in runs), reason) for name in names]
    cells += [
        _share(measures.over(runs, measures.number_of("frontier", "dead_neurons_share")), reason),
        _share(measures.over(runs, measures.number_of("frontier", "weight_sparsity/exact_zeros")), reason),
        _cost(measures.over(runs, measures.number_of("timing", "tokens_per_s")), formats.whole, reason),
        _cost(measures.over(runs, _memory), formats.size_in_bytes, reason),
        _cost(measures.over(runs, measures.state_bytes), formats.size_in_bytes, reason),
    ]
    return Row(variant, cells, slot_of(inputs.variants, variant), runs=keys_of(runs))


def layers_table(inputs: Inputs, corpus: str) -> Table | None:
    """Density of every activation in every layer on held-out text, drawn as shades; None where nothing has layers."""
    every = inputs.of(corpus)
    depths = {
        name: max((len(_layers(run, name)) for run in every), default=0)
        for name in measures.taps(every)
        if name.endswith("_sparse")
    }
    places = [(name, layer) for name, depth in depths.items() for layer in range(depth)]
    if not places:
        return None
    columns = [
        Column(name.removesuffix("_sparse"), f"layer {layer}", f"Non-zeros of {name}.", "frontier")
        for name, layer in places
    ]
    rows = []
    for variant in inputs.variants:
        runs = inputs.of(corpus, variant)
        cells = [_shaded(over_seeds(_layer(run, name, layer) for run in runs)) for name, layer in places]
        if any(cell.value is not None for cell in cells):
            rows.append(Row(variant, cells, slot_of(inputs.variants, variant), runs=keys_of(runs)))
    return Table(f"{corpus}-layers", f"{corpus}: share of active neurons per layer", columns, rows)


def _layers(run: RunResults, tap: str) -> list[float]:
    found = run.frontier.values.get(f"density/{tap}/layers")
    return [float(value) for value in found] if isinstance(found, list) else []


def _layer(run: RunResults, tap: str, layer: int) -> float | None:
    found = _layers(run, tap)
    return found[layer] if layer < len(found) else None


def _shaded(value: Spread | None) -> Cell:
    if value is None:
        return missing_cell("the variant has no such activation in this layer")
    return Cell(formats.percent(value.mean), value.mean, shade=value.mean)


def _memory(run: RunResults) -> float | None:
    value = run.timing.number("peak_memory_mib")
    return None if value is None else value * 2**20


def _share(value: Spread | None, reason: str) -> Cell:
    if value is None:
        return missing_cell(reason)
    detail = "" if value.half is None else f"± {formats.percent(value.half)}, n {value.n}"
    return Cell(formats.percent(value.mean), value.mean, detail=detail)


def _cost(value: Spread | None, shown: Callable[[float], str], reason: str) -> Cell:
    if value is None:
        return missing_cell(reason)
    detail = f"mean, n {value.n}" if value.sd else ""
    return Cell(shown(value.mean), value.mean, detail=detail)
