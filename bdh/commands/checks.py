"""What `bdh doctor` looks at: one function per subject, each returning how it is and what to do."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from bdh.commands.reach import corpus_checks
from bdh.errors import HatcheryError, one_line
from bdh.params import Params, load

GIB = 2**30
LITTLE_DISK_GIB = 5.0
NO_DISK_GIB = 0.5
PACKAGES = ("torch", "dvc", "mlflow", "mlflow-skinny", "numpy", "pandas", "pyarrow", "tokenizers")
OPTIONAL = ("mlflow",)
INSTALL = "install what pyproject.toml names: `pip install -c constraints.txt -e .`"


@dataclass(frozen=True)
class Check:
    """One subject: `ok`, a `note` that stops nothing, or a `problem`; how it is and what to do."""

    state: Literal["ok", "note", "problem"]
    name: str
    detail: str
    remedy: str = ""


def all_checks() -> list[Check]:
    """Every check, in the order in which one would mend things."""
    found = [*versions()]
    params, check = parameters()
    found += [check, device(params.device if params else "auto")]
    if params is not None:
        found += [Check(*row) for row in corpus_checks(params)]
    return [*found, store(), disk(), dvc_state()]


def versions() -> Iterator[Check]:
    """Versions of Python and of the libraries that results depend on."""
    told, missing = [f"python {platform.python_version()}"], []
    for name in PACKAGES:
        try:
            told.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("ok", "versions", ", ".join(told))
    if needed := [name for name in missing if name not in OPTIONAL]:
        yield Check("problem", "versions", f"not installed: {', '.join(needed)}", INSTALL)
    elif missing:
        yield Check("note", "versions", "only mlflow-skinny is installed: `bdh ui` will not start", INSTALL)


def parameters() -> tuple[Params | None, Check]:
    """params.yaml, or the mistake in it."""
    try:
        params = load()
    except HatcheryError as error:
        return None, Check("problem", "params.yaml", one_line(error), "mend that line")
    runs = len(params.runs())
    return params, Check("ok", "params.yaml", f"scale {params.scale}, {runs} runs in the comparison")


def device(wanted: str) -> Check:
    """What models run on; the only check that imports torch."""
    try:
        import torch
    except ImportError as error:
        return Check("problem", "device", f"torch cannot be imported ({one_line(error)})", INSTALL)
    if torch.cuda.is_available() and wanted != "cpu":
        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        told = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
        return Check("ok", "device", f"{wanted}: {told}")
    if wanted == "cuda":
        return Check(
            "problem", "device", "params.yaml says cuda, torch sees no GPU", "set device: auto, or mend the driver"
        )
    return Check("ok", "device", f"{wanted}: CPU, {torch.get_num_threads()} threads, {os.cpu_count()} cores")


def store() -> Check:
    """Whether the store answers, and what is in it; read without importing mlflow."""
    from bdh.tracking.store import StoreError, check_reachable, shown, sqlite_path, store_uri

    uri = store_uri()
    database = sqlite_path(uri)
    if os.environ.get("BDH_TRACKING") == "off":
        return Check("note", "MLflow store", "tracking is switched off (BDH_TRACKING=off)", "unset it to track runs")
    if database is None:
        try:
            check_reachable(uri)
        except StoreError as error:
            return Check("problem", "MLflow store", one_line(error), "mend or unset MLFLOW_TRACKING_URI")
        return Check("ok", "MLflow store", f"{shown(uri)} answers")
    if not database.exists():
        pointers = len(list(Path("reports/run").glob("*/*.json")))
        advice = f"`bdh sync` fills it from {pointers} results" if pointers else "the first stage makes it"
        return Check("note" if pointers else "ok", "MLflow store", f"{database} does not exist yet", advice)
    return _sqlite_store(database)


def _sqlite_store(database: Path) -> Check:
    try:
        with closing(sqlite3.connect(database, timeout=2.0)) as connection:
            rows = connection.execute(
                "SELECT status, count(*) FROM runs WHERE lifecycle_stage = 'active' GROUP BY status"
            ).fetchall()
    except sqlite3.Error as error:
        return Check("problem", "MLflow store", f"{database}: {error}", "move it away, then `bdh sync`")
    told = ", ".join(f"{count} {status}" for status, count in rows) or "no runs yet"
    return Check("ok", "MLflow store", f"{database}: {told}", "`bdh audit` compares it with dvc.lock" if rows else "")


def disk() -> Check:
    """Free space where data and runs go."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    told = f"{free:.1f} GiB free"
    if free < NO_DISK_GIB:
        return Check("problem", "disk", told, "free some space")
    return Check("note" if free < LITTLE_DISK_GIB else "ok", "disk", told, "the real corpora need about 5 GiB"
                 if free < LITTLE_DISK_GIB else "")  # fmt: skip


def dvc_state() -> Check:
    """What `dvc repro` would have to do."""
    if not Path(".dvc").is_dir():
        return Check("problem", "DVC", "this folder is no DVC repository", "`dvc init`, or clone the repository anew")
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        changed = json.loads(done.stdout or "{}")
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return Check("note", "DVC", "`dvc status` gives no answer", "run it yourself")
    if done.returncode != 0 and not changed:
        return Check("problem", "DVC", one_line(RuntimeError(done.stderr or "dvc status failed")), "mend dvc.yaml")
    if not changed:
        return Check("ok", "DVC", "every stage is up to date")
    return Check("ok", "DVC", f"stages with something to do: {len(changed)}", "`dvc repro`")
