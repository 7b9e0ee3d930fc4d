"""What a program says when it fails: one line for what a user can mend, and never a secret."""

import csv
import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bdh.commands.console import say, show_table
from bdh.corpora.progress import bytes_progress
from bdh.project.errors import reported, visible
from bdh.project.files import write_csv

STACK = """
import os, threading
from bdh.project.errors import reported
address = os.environ["MLFLOW_TRACKING_URI"]

@reported
def main():
    thread = threading.Thread(target=lambda: 1 / len(address[:0]) if address else None)
    thread.start()
    thread.join()
    raise ValueError(f"no such host: {address} (https://other:pa55word@example.org/x?token=t0ken)")

main()
"""


def test_errors_stack_of_an_error_nobody_foresaw_has_no_secret():
    """Catches a stack with the password of an address, our own or one that a library quotes."""
    environment = {"MLFLOW_TRACKING_URI": "https://me:geheim123@example.org", "PATH": "", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", STACK], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: no such host" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert not [secret for secret in ("geheim123", "pa55word", "t0ken") if secret in done.stderr]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "params.yaml"), "it is a folder where a file should be"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "ulimit -n"),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(error, told, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        reported(fail)()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert told in said


def test_errors_of_another_kind_are_not_called_a_lack_of_memory():
    def fail():
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes"):
        reported(fail)()


STEERING = "a\x1b[31mb\x07\x9b2J\u202e\u2066[/x] [bold]"


def test_errors_signs_that_steer_a_terminal_are_written_out(capsys):
    """Catches a text of a corpus or a name of a file that colours, clears or turns round what a terminal shows."""
    show_table([STEERING], [[STEERING]])
    say(STEERING)
    out = capsys.readouterr().out
    assert out.count(r"a\x1b[31mb\x07\x9b2J\u202e\u2066[/x] [bold]") == 3
    assert not set(out) & set("\x1b\x07\x9b\u202e\u2066")
    assert visible("Größe 東京 👩\u200d🔬") == "Größe 東京 👩\u200d🔬"


def test_errors_name_of_a_file_is_no_markup_on_a_terminal(monkeypatch, capsys):
    """Catches `MarkupError` on a terminal for a file named a[/b].txt."""
    terminal = Console(file=sys.stderr, force_terminal=True, width=120)
    monkeypatch.setattr("bdh.corpora.progress.Console", lambda stderr: terminal)
    with bytes_progress("copy a[/b].txt", 3) as advance:
        advance(3)
    assert "copy a[/b].txt" in capsys.readouterr().err


def test_errors_no_cell_of_a_table_starts_a_formula(tmp_path):
    """Catches a cell that a spreadsheet would run, and a number that is changed for it."""
    cells = [
        "=1+1",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\uff1d1",
        "-0.5",
        "+3",
        "1e-05",
        "-inf",
        "plain",
        "a=b",
        "",
    ]
    write_csv(tmp_path / "t.csv", ["=name", "n"], [{"=name": cell, "n": -1.5} for cell in cells])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["'=name", "n"]
    assert [row[0] for row in rows] == [
        *("'=1+1", "'+1+1", "'-2+3", "'@SUM(A1)", r"'\t=1", r"'\r=1", "'\uff1d1"),
        *("-0.5", "+3", "1e-05", "-inf", "plain", "a=b", ""),
    ]
    assert {row[1] for row in rows} == {"-1.5"}
