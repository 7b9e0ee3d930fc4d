"""`bdh tune`: every variant gets the same number of settings from one written space; validation chooses."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdh.commands.console import say
from bdh.commands.costs import cost_of, visible_gpus
from bdh.commands.repro import DVC, call
from bdh.commands.schedule import LOGS, Cards, Schedule, Work
from bdh.project.errors import HatcheryError
from bdh.project.files import enter_root, read_mapping

if TYPE_CHECKING:
    from bdh.params import Params

Cell = tuple[str, str, int]


class TuningError(HatcheryError):
    """A trial failed, or a name is not among those of params.yaml."""


def tune(
    variants: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT]...", help="Variants; all of params.yaml without any.")
    ] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Corpora; all of params.yaml without any.")] = None,
    jobs: Annotated[int, typer.Option(help="Trials at a time.", min=1)] = 1,
    draws: Annotated[int | None, typer.Option(help="Draws up to this number only.", min=1)] = None,
    choose: Annotated[bool, typer.Option(help="Write the best settings to `tuned` in params.yaml.")] = True,
    trial: Annotated[str, typer.Option(hidden=True, help="VARIANT-CORPUS-DRAW: make one trial, in this process.")] = "",
) -> None:
    """Try the settings of `tune` in params.yaml, on validation data alone, and keep what they gave.

    Each variant on each corpus gets `tune.<scale>.draws` settings; the first are its own. Trials that `docs/tuning.csv`
    holds already are not made again, so that a search can be stopped at any time. Once all draws of a variant on a
    corpus are made, the best of them become its settings of the recipe `tuned`.
    """
    enter_root()
    from bdh.params import load
    from bdh.params.trials import read_trials
    from bdh.training import search

    params = load()
    if trial:
        variant, name, draw = trial.split("-")
        search.run_trial(params, variant, name, int(draw))
        return
    corpora = _known("corpus", corpus or params.corpora, params.corpus)
    wanted = _known("variant", variants or params.variants, params.variant)
    names = [name for name in wanted if any(params.searchable(name, one) for one in corpora)]
    for name in wanted:
        if name not in names:
            say(f"{name}: trains nothing, so there is nothing to search for")
    cells = list(_missing(params, names, corpora, draws))
    if cells:
        call([*DVC, "repro", "code", *(f"tokenize@{name}" for name in corpora)])
        _run(params, cells, jobs)
    _mirror(read_trials())
    if choose:
        for line in search.write_choices(params, names, corpora):
            say(line)


def _known(kind: str, wanted: list[str], sections: dict[str, Any]) -> list[str]:
    for name in wanted:
        if name not in sections:
            raise TuningError(
                f"unknown {kind} {name!r}; sections of {kind} in params.yaml: {', '.join(sorted(sections))}"
            )
    return wanted


def _missing(params: Params, variants: list[str], corpora: list[str], draws: int | None) -> Iterator[Cell]:
    """Trials that the table does not hold, draw by draw, so that a search that ends early is even."""
    from bdh.params.trials import cell_of, read_trials
    from bdh.training import search

    size = getattr(params.tune, params.scale)
    points = search.points(size.space, size.draws, params.tune.seed)
    done = {cell_of(row): row for row in read_trials()}
    for draw, point in enumerate(points[:draws]):
        for variant in variants:
            for corpus in corpora:
                row = done.get((params.scale, corpus, variant, draw))
                if row is None or not search.same_settings(row, search.trimmed(params, variant, point)):
                    yield variant, corpus, draw


def _run(params: Params, cells: list[Cell], jobs: int) -> None:
    """Make the trials, `jobs` at a time; every one that is done goes into the table at once."""
    from bdh.training import search

    cards = visible_gpus()
    named = {f"tune-{'-'.join(str(part) for part in cell)}": cell for cell in cells}

    def finished(name: str) -> None:
        row = read_mapping(search.trial_path(params.scale, *named[name]))
        search.add_rows(params, [row])
        say(f"{name} {row.get('validation_nats') or row.get('diverged_at')}")

    works = [
        Work(
            name,
            (sys.executable, "-m", "bdh", "tune", "--trial", name.removeprefix("tune-")),
            seconds=cost_of(params, *cell, bool(cards)).training,
        )
        for name, cell in named.items()
    ]
    outcome = Schedule(works, jobs, Cards(cards, jobs), finished=finished).run()
    if outcome.stopped:
        raise typer.Exit(128 + (outcome.signum or signal.SIGINT))
    for name, reason in outcome.failed.items():
        raise TuningError(
            f"trial {name} {reason}; all it said is in {LOGS / f'{name}.log'}; `bdh tune` goes on from what is done"
        )


def _mirror(rows: list[dict[str, str]]) -> None:
    """Trials in MLflow; like all tracking it warns and never fails."""
    from bdh.tracking.session import ADVICE, wanted
    from bdh.tracking.store import open_store, short
    from bdh.tracking.sync import mirror_trials

    if not wanted():
        return
    try:
        mirror_trials(open_store(), rows)
    except Exception as error:  # whatever a store or its server raises
        say(f"warning: tracking: {short(error)}; {ADVICE}")
