"""The search of settings: how many draws every variant had, and what the best of them gave on validation data."""

from __future__ import annotations

from bdh.params.trials import Search
from bdh.report import formats
from bdh.report.data.inputs import Inputs
from bdh.report.plots.figure import slot_of
from bdh.report.tables.table import Cell, Column, Row, Table, missing_cell

COLUMNS = (
    Column("draws", "trials", "Settings tried, from one written space, the same number for every variant."),
    Column("reference", "validation bits per byte", "Draw 0: the settings of recipe reference."),
    Column("best draw", "validation bits per byte", "The settings of recipe tuned."),
    Column("gain", "bits per byte", "Best draw minus reference. Negative: the search found better settings."),
    Column("settings of the best draw"),
)
NONE_BETTER = "those of recipe reference"


def search_tables(inputs: Inputs) -> list[Table]:
    """One table per corpus that was searched at the scale of the page."""
    return [table for corpus in inputs.corpora if (table := _table(inputs, corpus))]


def _table(inputs: Inputs, corpus: str) -> Table | None:
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
    rows = [Row(name, _cells(found), slot_of(inputs.variants, name)) for name, found in searched.items()]
    return Table(f"{corpus}-search", f"{corpus}: search of settings", COLUMNS, rows, notes=notes)


def _cells(found: Search) -> list[Cell]:
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
