"""Commands that check: models against golden vectors (`bdh golden`), files against MLflow (`bdh audit`, `bdh sync`)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bdh.commands.console import say, show_table
from bdh.project.errors import RunError, shown
from bdh.project.files import enter_root
from bdh.project.lockfile import check_lock


def golden(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with golden vectors (*.npz).")]) -> None:
    """Check the models against golden vectors; exit 1 where the largest relative error is above 1e-6."""
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; name one that holds golden vectors (*.npz)")
    from bdh.golden.vectors import TOLERANCE, check_folder

    cases = check_folder(folder)
    show_table(("case", "largest error", "of", "compared", "result"), [_row(case) for case in cases])
    failed = [case for case in cases if not case.passed]
    if failed:
        say(f"{len(failed)} of {len(cases)} cases have not passed (limit {TOLERANCE:.0e})")
        raise typer.Exit(1)
    say(f"{len(cases)} cases passed (limit {TOLERANCE:.0e})")


def _row(case: object) -> tuple[str, ...]:
    from bdh.golden.vectors import Case

    assert isinstance(case, Case)
    name, error = case.worst or ("-", None)
    return case.name, "-" if error is None else f"{error:.2e}", name, str(len(case.errors)), case.status


def audit() -> None:
    """Check both ways that dvc.lock, the pointers of results and the MLflow store agree; exit 1 if they do not."""
    enter_root()
    check_lock()
    from bdh.tracking.identity import all_pointers
    from bdh.tracking.store import open_store
    from bdh.tracking.sync import audit as find

    findings = find(open_store())
    if findings:
        show_table(("stage", "what does not agree", "what to do"), [(f.subject, f.problem, f.remedy) for f in findings])
        raise typer.Exit(1)
    say(f"dvc.lock, {len(list(all_pointers()))} pointers and the MLflow store agree")


def sync() -> None:
    """Refill the MLflow store from dvc.lock and the results; safe to repeat, also into an empty store."""
    enter_root()
    check_lock()
    from bdh.tracking.store import open_store
    from bdh.tracking.sync import sync as refill

    store = open_store()
    actions = refill(store)
    changed = [action for action in actions if action.done != "kept"]
    if changed:
        show_table(("stage", "done", "run or reason"), [(a.name, a.done, a.detail) for a in changed])
    counts = Counter(action.done for action in actions)
    told = ", ".join(f"{count} {done}" for done, count in counts.items()) or "dvc.lock has no tracked stage yet"
    say(f"{shown(store.uri)}: {told}")
