"""The MLflow store: found, created once, opened in bounded time, with the view that people see first.

- `MLFLOW_TRACKING_URI` wins; otherwise `mlflow.db` at the root of the repository (`DVC_ROOT`, else the current folder).
- A SQLite store is made under a file lock, in a temporary file that is renamed when complete: any number of stages may
  start at once on a fresh folder, and a killed one leaves no half-made tables behind.
- A server that does not answer, or a database that another program has locked, costs seconds.

With the experiment is kept the view of its runs that `bdh ui` opens: the headline numbers as columns.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bdh.frontier.registry import table_columns
from bdh.project.errors import HatcheryError, one_line, shown

EXPERIMENT = "hatchery"
ORIGINAL = "original_run_id"
"""Tag of a run that stands for results whose pointer names another run: one that this store lacks."""

EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One row per trained model: training, with its evaluations as children. "
    "Group by the tags `variant`, `corpus`, `seed`, `scale`; `dvc.*` tags tie every run to dvc.lock.",
}
SECONDS_TO_CONNECT = 5.0
SECONDS_FOR_LOCK = 60.0
LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class StoreError(HatcheryError):
    """The MLflow store cannot be used."""


@dataclass(frozen=True)
class Store:
    """An open store: `client` is an MlflowClient, `experiment_id` that of the one experiment."""

    uri: str
    client: Any
    experiment_id: str

    def get_run(self, run_id: str | None) -> Any | None:
        """The run that `bdh sync` made for this id, else the run itself; None when the store has neither."""
        from mlflow.exceptions import MlflowException

        if not run_id or not re.fullmatch(r"[0-9a-zA-Z_-]+", run_id):
            return None
        for run in self.search(f"tags.{ORIGINAL} = '{run_id}'"):
            return run
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def search(self, condition: str = "") -> Iterator[Any]:
        """Runs of the experiment that fulfil a condition of MLflow's search language, newest first."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def read(self, run_id: str, artifact: str) -> str:
        """The text of an artifact of a run; raises StoreError where there is none."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self.client.download_artifacts(run_id, artifact, folder)
                return Path(path).read_text(encoding="utf-8")
            except Exception as error:  # whatever the store raises
                raise StoreError(f"run {run_id} has no artifact {artifact} ({short(error)})") from None


def root() -> Path:
    """Root of the repository: `dvc exp run --temp` works in a copy but keeps its runs with the original."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()


def store_uri() -> str:
    """Address of the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(root() / "mlflow.db")


def sqlite_address(database: Path) -> str:
    """The address of a database file; SQLAlchemy decodes it, so what would mean something else is written `%3F`.

    Of such an address MLflow would make the folder that it spells undecoded, unless the driver is named.
    """
    spelt = re.sub("[%?#]", lambda match: f"%{ord(match[0]):02X}", str(database))
    return f"sqlite:///{spelt}" if spelt == str(database) else f"sqlite+pysqlite:///{spelt}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite address, None for any other store or for options behind `?`."""
    match = re.fullmatch(r"sqlite(?:\+pysqlite)?:///([^?]+)", uri)
    return Path(unquote(match[1])).absolute() if match else None


def open_store(uri: str | None = None) -> Store:
    """Open the store, creating database and experiment where they are missing.

    Raises StoreError with one clear line when it cannot be reached, read or written.
    """
    address = uri or store_uri()
    prepare_environment()
    database = sqlite_path(address)
    try:
        if database is None:
            check_reachable(address)
            client = _client(address)
            experiment = _experiment(client, None)
            if not experiment:
                raise StoreError(f"{shown(address)} answers, but not as a server of MLflow {_version()} does")
            return Store(address, client, experiment)
        return _open_sqlite(address, database)
    except HatcheryError:
        raise
    except Exception as error:
        raise StoreError(f"{shown(address)}: {short(error)}") from error


def prepare_environment() -> None:
    """Settings that MLflow reads when it is imported; values that the user has set stay."""
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    os.environ.pop("MLFLOW_RUN_ID", None)


def short(error: BaseException) -> str:
    """The first sentence of an error; MLflow and SQLAlchemy add pages, and urllib3 says the reason last."""
    line = one_line(error)
    if given_up := re.search(r" failed with exception .*\(Caused by \w+\(['\"](.*)['\"]\)\)", line):
        line = f"{line[: given_up.start()]} failed: {given_up[1].rpartition('): ')[2]}"
    line = re.split(r" \(Background on this error| \[SQL:| with url: ", line)[0]
    return line if len(line) <= 300 else f"{line[:297]}..."


def _client(uri: str) -> Any:
    import mlflow

    for name in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _version() -> str:
    import mlflow

    return mlflow.__version__


def _open_sqlite(uri: str, database: Path) -> Store:
    import mlflow  # noqa: F401 - before the lock: it takes seconds
    from filelock import FileLock, Timeout

    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{database}.lock", timeout=SECONDS_FOR_LOCK):
            if not database.exists():
                _create(database)
        artifacts = (database.parent / "mlruns").as_uri()
        _prepare(database, artifacts)
        client = _client(uri)
        return Store(uri, client, _experiment(client, artifacts))
    except Timeout:
        raise StoreError(f"{database}: another process has held {database.name}.lock for a minute") from None
    except sqlite3.Error as error:
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        hint = f"; move {database.name}* away and run `bdh sync`" if damaged else ""
        raise StoreError(f"{database}: {error}{hint}") from None


def _create(database: Path) -> None:
    """Make the tables in a file beside, switch it to write-ahead logging, rename it.

    A killed program leaves a write-ahead log; SQLite would take that of a removed database for the new one's.
    """
    fresh = database.with_name(f"{database.name}.new")
    lost = [database.with_name(f"{database.name}-{part}") for part in ("wal", "shm", "journal")]
    for leftover in (*lost, *database.parent.glob(f"{fresh.name}*")):
        leftover.unlink(missing_ok=True)
    _client(sqlite_address(fresh)).search_experiments(max_results=1)
    _forget_engine(sqlite_address(fresh))
    connection = sqlite3.connect(fresh)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    fresh.replace(database)


def _forget_engine(uri: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()


def _prepare(database: Path, artifacts: str) -> None:
    """Open for writing with a short patience (MLflow itself would try again for minutes), and follow a moved folder.

    MLflow stores absolute addresses of artifacts; ours lie beside the database, so they move with it.
    """
    with closing(sqlite3.connect(database, timeout=SECONDS_TO_CONNECT)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        moved = "SELECT artifact_location FROM experiments WHERE name = ? AND artifact_location != ?"
        for (old,) in connection.execute(moved, (EXPERIMENT, artifacts)).fetchall():
            for table, column in ARTIFACT_COLUMNS:
                rewrite = (
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?"
                )
                connection.execute(rewrite, (artifacts, len(old) + 1, old, f"{old}/%"))


def check_reachable(uri: str) -> None:
    """Return when something listens at the address; raises StoreError when nothing does or the address is none."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in PORTS or not parts.hostname:
        if scheme in PORTS:
            raise StoreError(f"MLFLOW_TRACKING_URI {shown(uri)!r} names no host")
        if scheme not in ("sqlite", "databricks"):
            raise StoreError(
                f"MLFLOW_TRACKING_URI {shown(uri)!r} is no database and no server; "
                "use sqlite:///FILE, http(s)://HOST:PORT or a SQLAlchemy address"
            )
        return
    try:
        port = parts.port or PORTS[scheme]
    except ValueError:
        raise StoreError(f"MLFLOW_TRACKING_URI {shown(uri)!r} has no valid port") from None
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise StoreError(f"{shown(uri)} does not answer ({error.strerror or error})") from None


def _experiment(client: Any, artifacts: str | None) -> str:
    """Id of the experiment, made or brought back from the bin where needed."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


KEY = "results"
TAG = f"mlflow.sharedViewState.{KEY}"
TAGS = ("variant", "corpus", "seed")
METRICS = (
    "validation/bits_per_byte",
    "test/bits_per_byte/static",
    "test/bits_per_byte/carry",
    "test/bits_per_byte/observe",
    "test/perplexity/static",
    "density/x_sparse",
    *table_columns(),
    "parameters",
    "timing/tokens_per_s",
)
WIDTH = 160
PAGE = "#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode={mode}&viewStateShareKey={key}"


def columns() -> list[str]:
    """Columns of the table as MLflow names them."""
    return [f"tags.`{name}`" for name in TAGS] + [f"metrics.`{name}`" for name in METRICS] + ["attributes.`Models`"]


def prepare_view(store: Store) -> None:
    """Keep the view with the experiment, where MLflow keeps the views that people share."""
    widths = {name: WIDTH for name in columns() if name.startswith("metrics.")}
    state = {"selectedColumns": columns(), "columnOrder": columns(), "columnWidths": widths}
    wanted = json.dumps(state)
    if store.client.get_experiment(store.experiment_id).tags.get(TAG) != wanted:
        store.client.set_experiment_tag(store.experiment_id, TAG, wanted)


def address(server: str, experiment_id: str, mode: str) -> str:
    """Address of the view on a server; `mode` is TABLE or CHART."""
    return f"{server.rstrip('/')}/{PAGE.format(experiment=experiment_id, mode=mode, key=KEY)}"
