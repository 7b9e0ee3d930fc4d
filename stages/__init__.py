"""The stages of the pipeline, each a thin program: `python -m stages.<stage>`.

DVC starts a stage with whatever `python` the PATH names. Importing this package therefore comes first and needs nothing
but the standard library: where DVC runs on another interpreter that has what the project needs, or where the present
one lacks something, the stage goes on in that interpreter or in the project's `.venv`. If none fits, one line says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

OLDEST = (3, 11)
NEEDED = (
    "filelock",
    "fsspec",
    "jinja2",
    "matplotlib",
    "mlflow",
    "networkx",
    "numpy",
    "pandas",
    "powerlaw",
    "psutil",
    "pyarrow",
    "pydantic",
    "pynvml",
    "requests",
    "rich",
    "regex",
    "ruamel.yaml",
    "safetensors",
    "scipy",
    "sknetwork",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "typer",
    "yaml",
)
SWITCHED = "HATCHERY_SWITCHED"
"""Environment variable with the id of the process that has already changed its interpreter: it does so once."""

PROBE = f"""
import sys
from importlib.util import find_spec
def there(name):
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
sys.exit(0 if sys.version_info >= {OLDEST} and all(there(name) for name in {NEEDED}) else 1)
"""


def use_the_right_interpreter() -> None:
    """Return where this interpreter is the right one; otherwise replace the process, or end it with one line.

    Nothing happens in a program that only imports a stage, and in a process that has changed its interpreter before.
    """
    command = _own_command()
    if command is None:
        return
    lacks = missing()
    if os.environ.get(SWITCHED) != str(os.getpid()):
        for other in other_interpreters(lacks):
            os.environ[SWITCHED] = str(os.getpid())
            os.execv(other, [other, *command[1:]])
    if lacks:
        more = f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""
        sys.stderr.write(
            f"error: this python ({sys.executable}) lacks {', '.join(lacks[:3])}{more}; run `bdh repro`, or activate "
            "the environment that holds dvc (`source .venv/bin/activate`) and run the same command again\n"
        )
        raise SystemExit(2)


def _own_command() -> list[str] | None:
    """The words that started this process, None where it is no stage but only imports one."""
    command = getattr(sys, "orig_argv", None) or _command_line(os.getpid())
    module = command[command.index("-m") + 1 :][:1] if "-m" in command else []
    return command if any(name.startswith(f"{__name__}.") for name in module) else None


def end_with_dvc() -> None:
    """End this stage, folders and files half made removed, on SIGTERM and when the dvc that started it is gone.

    This holds from the first moment, in every stage; where `bdh.project.processes.stoppable` takes over, it alone acts.
    """
    if _own_command() is None or threading.current_thread() is not threading.main_thread():
        return
    from bdh.project.processes import POLL_S, lives, starters

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    chain = starters()

    def watch() -> None:
        while all(lives(process) for process in chain):
            time.sleep(POLL_S)
        if signal.getsignal(signal.SIGTERM) is end:
            sys.stderr.write("the dvc process that started this stage is gone\n")
            os.kill(os.getpid(), signal.SIGTERM)

    if chain:
        threading.Thread(target=watch, name="dvc watch", daemon=True).start()


def missing() -> list[str]:
    """What this interpreter lacks: packages that cannot be found, or a version of Python that is new enough."""
    if sys.version_info < OLDEST:
        return [f"Python {OLDEST[0]}.{OLDEST[1]} or newer"]
    return [name for name in NEEDED if not _found(name)]


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def other_interpreters(lacks: list[str]) -> list[str]:
    """Complete interpreters to go on with: that of the dvc that started this stage, and `.venv` if this one `lacks`."""
    places = [dvc_interpreter()] if "DVC_STAGE" in os.environ else []
    if lacks:
        roots = [os.environ.get("DVC_ROOT"), str(Path(__file__).absolute().parents[1])]
        places += [str(Path(root, ".venv/bin/python")) for root in roots if root]
    return [
        place for place in places if place and _identity(place) != _identity(sys.executable) and _is_complete(place)
    ]


def _identity(interpreter: str) -> tuple[Path, Path]:
    """Interpreters of two environments may be links to one file, and two versions may share a folder."""
    path = Path(interpreter)
    return path.parent.resolve(), path.resolve()


def _is_complete(interpreter: str) -> bool:
    try:
        return subprocess.run([interpreter, "-c", PROBE], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def dvc_interpreter() -> str | None:
    """The Python of the nearest ancestor that runs dvc, None where there is none or it is no Python."""
    pid = os.getppid()
    while pid > 1:
        words = _command_line(pid)
        if any(Path(word).name == "dvc" for word in words[1:6]):
            first = words[0] if os.sep in words[0] else shutil.which(words[0]) or ""
            return str(Path(first).absolute()) if Path(first).name.startswith("python") else None
        pid = _parent(pid)
    return None


def _command_line(pid: int) -> list[str]:
    """The words of a process's command line, [] where it cannot be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return _ps(pid, "command").split()


def _parent(pid: int) -> int:
    """The process that started a process, 0 where nobody knows."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return int(_ps(pid, "ppid") or 0)


def _ps(pid: int, column: str) -> str:
    try:
        return subprocess.run(
            ["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        return ""


use_the_right_interpreter()
end_with_dvc()
