"""The `bdh` command: everything around the pipeline that `dvc repro` itself is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, cast

import typer

from bdh.commands.checks import audit, golden, sync
from bdh.commands.doctor import doctor
from bdh.commands.generate import generate
from bdh.commands.hub import bring, export, inspect
from bdh.commands.repro import repro
from bdh.commands.reproduce import reproduce
from bdh.commands.study import app as study
from bdh.commands.tune import tune
from bdh.commands.ui import ui
from bdh.project.errors import EXIT_CODE, reported

INTERRUPTED = 130

app = typer.Typer(
    name="bdh",
    help="Look at, check and use what `dvc repro` has made.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (repro, reproduce, tune, doctor, ui, audit, sync, generate, inspect, golden):
    app.command()(command)
app.command()(export)
app.command("import")(bring)
app.add_typer(study)

USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[2])  # ClickException, wherever typer keeps it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an error becomes one line on standard error and exit code 2."""
    sys.exit(reported(_run)(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    words = None if arguments is None else list(arguments)
    try:
        return int(app(args=words, prog_name="bdh", standalone_mode=False) or 0)
    except USAGE_ERROR as error:
        return _explain(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has seen enough
        return 0


def _explain(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(f"{error}\n")
        return 0
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "bdh"
    message = " ".join(error.format_message().split())
    sys.stderr.write(f"error: {message} (`{command} --help` shows what there is)\n")
    return EXIT_CODE


if __name__ == "__main__":
    main()
