"""`bdh audit` and `bdh sync`: whether files and MLflow agree, and making them agree."""

from __future__ import annotations

from collections import Counter

import typer

from bdh.commands.console import say, show_table
from bdh.project.files import enter_root


def audit() -> None:
    """Check both ways that dvc.lock, the pointers in reports/run and the MLflow store agree; exit 1 if they do not."""
    enter_root()
    from bdh.tracking.pointers import all_pointers
    from bdh.tracking.store import open_store
    from bdh.tracking.sync import audit as find

    findings = find(open_store())
    if findings:
        show_table(("stage", "what does not agree", "what to do"), [(f.subject, f.problem, f.remedy) for f in findings])
        raise typer.Exit(1)
    say(f"dvc.lock, {len(list(all_pointers()))} pointers and the MLflow store agree")


def sync() -> None:
    """Refill the MLflow store from dvc.lock and the reports; safe to repeat, also into an empty store."""
    enter_root()
    from bdh.tracking.store import open_store, shown
    from bdh.tracking.sync import sync as refill

    store = open_store()
    actions = refill(store)
    changed = [action for action in actions if action.done != "kept"]
    if changed:
        show_table(("stage", "done", "run or reason"), [(a.name, a.done, a.detail) for a in changed])
    counts = Counter(action.done for action in actions)
    told = ", ".join(f"{count} {done}" for done, count in counts.items()) or "dvc.lock has no tracked stage yet"
    say(f"{shown(store.uri)}: {told}")
