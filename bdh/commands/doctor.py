"""`bdh doctor`."""

from __future__ import annotations

import typer

from bdh.commands.checks import Check, all_checks
from bdh.commands.console import say, show_table
from bdh.repository import enter_root

SIGNS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def doctor() -> None:
    """Look at device, versions, parameters, corpora, store, disk and DVC, and say what to do; exit 1 on a problem."""
    enter_root()
    checks = all_checks()
    show_table(("", "what", "how it is", "what to do"), [_row(check) for check in checks])
    problems = sum(check.state == "problem" for check in checks)
    if problems:
        say(f"{problems} problem{'s' if problems > 1 else ''} to solve before `dvc repro`")
        raise typer.Exit(1)
    say("ready for `dvc repro`")


def _row(check: Check) -> tuple[str, str, str, str]:
    return SIGNS[check.state], check.name, check.detail, check.remedy
