"""How commands print: tables for people on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bdh.project.errors import visible

PIPE_WIDTH = 200


def console() -> Console:
    """A console on standard output; wide where nobody's window limits it. What it cannot show is shown escaped."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    screen = Console()
    return screen if screen.is_terminal else Console(width=PIPE_WIDTH)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header; texts are shown as they are, without markup, and wrap instead of being cut."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(_harmless(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    console().print(table)


def say(line: str) -> None:
    """Print one line as it is."""
    console().print(_harmless(line), markup=False, highlight=False, soft_wrap=True)


def _harmless(text: str) -> str:
    return "\n".join(visible(line) for line in text.split("\n"))
