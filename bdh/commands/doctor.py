"""`bdh doctor`: one function per subject, each returning how it is and what to do.

For the corpora that is where each could be taken from now: made here, fetched before, a mirror, the network.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import typer

from bdh.commands.console import say, show_table
from bdh.corpora.places import MIRROR, dataset_in_mirror, mirror_address, open_in_mirror, own_files
from bdh.params import (
    Corpus,
    DownloadSource,
    GeneratedSource,
    Gpt2Tokenizer,
    HubSource,
    LocalSource,
    Params,
    PlainText,
    SourceFile,
    load,
)
from bdh.project.errors import HatcheryError, one_line, shown
from bdh.project.files import RAW, enter_root
from bdh.project.lockfile import LOST_LOCK, lock_damage

GIB = 2**30
LITTLE_DISK_GIB = 5.0
NO_DISK_GIB = 0.5
PATIENCE_S = 3.0
PACKAGES = ("torch", "dvc", "mlflow", "mlflow-skinny", "numpy", "pandas", "pyarrow", "tokenizers")
OPTIONAL = ("mlflow",)
INSTALL = "install what pyproject.toml names: `pip install -c constraints.txt -e .`"
SIGNS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Check:
    """One subject: `ok`, a `note` that stops nothing, or a `problem`; how it is and what to do."""

    state: Literal["ok", "note", "problem"]
    name: str
    detail: str
    remedy: str = ""


def doctor() -> None:
    """Look at device, versions, parameters, corpora, store, disk and DVC, and say what to do; exit 1 on a problem."""
    enter_root()
    checks = all_checks()
    rows = [(SIGNS[check.state], check.name, check.detail, check.remedy) for check in checks]
    show_table(("", "what", "how it is", "what to do"), rows)
    problems = sum(check.state == "problem" for check in checks)
    if problems:
        say(f"{problems} problem{'s' if problems > 1 else ''} to solve before `dvc repro`")
        raise typer.Exit(1)
    say("ready for `dvc repro`")


def all_checks() -> list[Check]:
    """Every check, in the order in which one would mend things."""
    found = [*versions()]
    params, check = parameters()
    found += [check, device(params.device if params else "auto")]
    if params is not None:
        found += corpus_checks(params)
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


def corpus_checks(params: Params) -> Iterator[Check]:
    """One check per corpus section; only a chosen corpus can be a problem."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(_where, params.corpus.items())
        for name, (place, missing) in zip(params.corpus, found, strict=True):
            chosen = name in params.corpora
            title = f"corpus {name}{'' if chosen else ' (not chosen)'}"
            if not missing:
                yield Check("ok", title, place)
            else:
                state: Literal["problem", "note"] = "problem" if chosen else "note"
                yield Check(state, title, f"cannot be reached: {missing}", _way_out(params.corpus[name]))


def _way_out(corpus: Corpus) -> str:
    if isinstance(corpus.source, LocalSource):
        return "put the file there, or change source.path in params.yaml"
    return f"set {MIRROR} to a folder or URL that holds it, or connect to the network"


def _where(section: tuple[str, Corpus]) -> tuple[str, str]:
    """(where the corpus comes from, what cannot be reached)."""
    name, corpus = section
    source, files = corpus.source, files_of(corpus)
    if (RAW / name).is_dir():
        return f"fetched: {RAW / name}", ""
    if isinstance(source, LocalSource):
        return _own(name, corpus, source)
    if isinstance(source, HubSource):
        where = f"{source.dataset} at {source.revision}"
        try:
            if os.environ.get(MIRROR) and dataset_in_mirror(source.dataset, ["*"]):
                return f"mirror {shown(mirror_address())}", ""
        except HatcheryError as error:
            return "", one_line(error)
        return (f"hub: {where}", "") if _answers("https://huggingface.co") else ("", f"the hub ({where})")
    try:
        places = {file.path: _place(file) for file in files}
    except HatcheryError as error:
        return "", one_line(error)
    if lost := [path for path, place in places.items() if place is None]:
        return "", ", ".join(lost)
    made = ["generated here"] if isinstance(source, GeneratedSource) else []
    return ", ".join(dict.fromkeys([*made, *(place for place in places.values() if place)])), ""


def _own(name: str, corpus: Corpus, source: LocalSource) -> tuple[str, str]:
    sectors = None if isinstance(corpus.text, PlainText) else corpus.text.sectors
    try:
        found = own_files(name, source, corpus.text.format, {sectors} if sectors else set())
    except HatcheryError as error:
        return "", one_line(error).removeprefix(f"corpus {name}: ").partition(";")[0]
    first = next(iter(found.values())).path
    return f"local: {first}{f' and {len(found) - 1} more' if len(found) > 1 else ''}", ""


def files_of(corpus: Corpus) -> list[SourceFile]:
    """The files that a corpus and its tokenizer are downloaded as."""
    tokenizer = corpus.tokenizer
    files = list(corpus.source.files) if isinstance(corpus.source, DownloadSource) else []
    return files + ([tokenizer.vocab, tokenizer.merges] if isinstance(tokenizer, Gpt2Tokenizer) else [])


def _place(file: SourceFile) -> str | None:
    """Where a file would come from, None for nowhere; raises CorpusError when the mirror does not work."""
    if (held := open_in_mirror(file.path)) is not None:
        held[0].close()
        return f"mirror {shown(mirror_address())}"
    return "network" if file.url and _answers(file.url) else None


def _answers(url: str) -> bool:
    import requests

    try:
        return requests.head(url, timeout=PATIENCE_S, allow_redirects=True).ok
    except requests.RequestException:
        return False


def store() -> Check:
    """Whether the store answers, and what is in it; read without importing mlflow."""
    from bdh.tracking.identity import all_pointers
    from bdh.tracking.store import StoreError, check_reachable, sqlite_path, store_uri

    uri = store_uri()
    database = sqlite_path(uri)
    if os.environ.get("BDH_TRACKING") == "off":
        return Check("note", "MLflow store", "tracking is switched off (BDH_TRACKING=off)", "unset it to track runs")
    if database is None:
        try:
            check_reachable(uri)
        except StoreError as error:
            return Check("problem", "MLflow store", one_line(error), "mend or unset MLFLOW_TRACKING_URI")
        return _server(uri) if uri.startswith("http") else Check("ok", "MLflow store", f"{shown(uri)} answers")
    if not database.exists():
        pointers = sum(1 for _ in all_pointers())
        advice = f"`bdh sync` fills it from {pointers} results" if pointers else "the first stage makes it"
        return Check("note" if pointers else "ok", "MLflow store", f"{database} does not exist yet", advice)
    return _sqlite_store(database)


def _server(uri: str) -> Check:
    """Whether a server answers as MLflow does, to somebody with our name and password."""
    import requests

    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    signed = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        answer = requests.post(
            address,
            json={"max_results": 1},
            auth=signed,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=PATIENCE_S,
        )
    except requests.RequestException as error:
        told = f"{shown(uri)} gives no answer ({type(error).__name__})"
        return Check("problem", "MLflow store", told, "mend or unset MLFLOW_TRACKING_URI")
    if answer.ok:
        return Check("ok", "MLflow store", f"{shown(uri)} answers")
    told = f"{shown(uri)} refuses: HTTP {answer.status_code} {answer.reason}"
    if answer.status_code in (401, 403, 407):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return Check("problem", "MLflow store", told, f"{remedy} (403 may also mean its --allowed-hosts)")
    return Check("problem", "MLflow store", told, "it is no MLflow server: mend or unset MLFLOW_TRACKING_URI")


def _sqlite_store(database: Path) -> Check:
    try:
        with closing(sqlite3.connect(database, timeout=2.0)) as connection:
            rows = connection.execute(
                "SELECT status, count(*) FROM runs WHERE lifecycle_stage = 'active' GROUP BY status"
            ).fetchall()
    except sqlite3.Error as error:
        return Check("problem", "MLflow store", f"{database}: {error}", f"move {database.name}* away, then `bdh sync`")
    told = ", ".join(f"{count} {status}" for status, count in rows) or "no runs yet"
    return Check("ok", "MLflow store", f"{database}: {told}", "`bdh audit` compares it with dvc.lock" if rows else "")


def disk() -> Check:
    """Free space where data and runs go."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    told = f"{free:.1f} GiB free"
    if free < NO_DISK_GIB:
        return Check("problem", "disk", told, "free some space")
    if free < LITTLE_DISK_GIB:
        return Check("note", "disk", told, "the real corpora need about 5 GiB")
    return Check("ok", "disk", told)


def dvc_state() -> Check:
    """What `dvc repro` would have to do, or what keeps DVC from reading this folder."""
    if (found := obstacle()) is not None:
        return found
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        changed = json.loads(done.stdout or "{}")
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return Check("note", "DVC", "`dvc status` gives no answer", "run it yourself")
    if done.returncode != 0 and not changed:
        told = one_line(RuntimeError(done.stderr or "dvc status failed")).partition(" Having any troubles?")[0]
        return Check("problem", "DVC", told, _remedy(told))
    if not changed:
        return Check("ok", "DVC", "every stage is up to date")
    return Check("ok", "DVC", f"stages with something to do: {len(changed)}", "`dvc repro`")


def obstacle() -> Check | None:
    """What DVC would stumble over before it reads its stages, None for nothing: no repository, no git, a merge."""
    if not Path(".dvc").is_dir():
        return Check("problem", "DVC", "this folder is no DVC repository", "`dvc init`, or clone the repository anew")
    here = Path.cwd()
    config = "".join(path.read_text(encoding="utf-8") for path in Path(".dvc").glob("config*") if path.is_file())
    if not any((folder / ".git").exists() for folder in (here, *here.parents)) and "no_scm" not in config:
        return Check(
            "problem",
            "DVC",
            "this folder is in no git repository (a copy without .git?), and DVC needs one",
            "`git init`, or `dvc config --local core.no_scm true` to go without",
        )
    for name in ("dvc.yaml", "dvc.lock"):
        path = Path(name)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        marked = [number for number, line in enumerate(lines, 1) if line.startswith(("<<<<<<< ", ">>>>>>> "))]
        if marked:
            remedy = "keep one side of each in your editor"
            if name == "dvc.lock":
                remedy = "`git checkout --ours dvc.lock` (or --theirs), then `dvc repro`"
            return Check("problem", "DVC", f"{name}, line {marked[0]}: git's conflict markers", remedy)
    damage = lock_damage()
    return None if damage is None else Check("problem", "DVC", damage, LOST_LOCK)


def _remedy(told: str) -> str:
    """What mends an error of DVC's own."""
    if "object is not iterable" in told:
        return "an axis of params.yaml (corpora, variants, seeds) is no list: write seeds: [0]"
    if "dvc.lock" in told:
        return LOST_LOCK
    if "params.yaml" in told or "Could not find" in told:
        return "mend params.yaml"
    return "mend dvc.yaml" if "dvc.yaml" in told else "`dvc status -v` says more"
