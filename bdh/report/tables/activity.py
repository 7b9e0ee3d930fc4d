"""How sparse the activity is, and what it costs in time and memory."""

from __future__ import annotations

from collections.abc import Callable

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults, divergences
from bdh.report.data.spread import Spread, over_seeds
from bdh.report.plots.figure import slot_of
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell

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
    rows = [_row(inputs, corpus, variant, names) for variant in inputs.variants]
    return Table(
        f"{corpus}-activity",
        f"{corpus}: activity and cost",
        [*columns, *COSTS],
        rows,
        notes=["Densities are means over layers on held-out text. Speed and memory are single measurements."],
    )


def _row(inputs: Inputs, corpus: str, variant: str, names: list[str]) -> Row:
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
