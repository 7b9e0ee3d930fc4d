"""`bdh golden DIR`: the models against golden vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bdh.commands.console import say, show_table
from bdh.project.errors import RunError


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
