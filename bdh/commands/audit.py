"""`bdh audit`."""

from __future__ import annotations

import typer

from bdh.commands.console import say, show_table
from bdh.repository import enter_root


def audit() -> None:
    """Check both ways that dvc.lock, the pointers in reports/run and the MLflow store agree; exit 1 if they do not."""
    enter_root()
    from bdh.tracking.audit import audit as find
    from bdh.tracking.pointers import all_pointers
    from bdh.tracking.store import open_store

    findings = find(open_store())
    if findings:
        show_table(("stage", "what does not agree", "what to do"), [(f.subject, f.problem, f.remedy) for f in findings])
        raise typer.Exit(1)
    say(f"dvc.lock, {len(list(all_pointers()))} pointers and the MLflow store agree")
