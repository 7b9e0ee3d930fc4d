"""An MLflow server on PostgreSQL: used, stopped in the middle of a training, started again, filled in."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.reliability.disturbed import results
from tests.reliability.faults import record
from tests.support.tracked_project import finished_project

pytest.importorskip("pg8000", reason="pg8000 is not installed (pip install 'hatchery[dev]')")
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]
TRAIN = ("stages.train", "bdh", "sample_plays", "0")
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


class Postgres:
    """A database server of the user postgres in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.as_postgres("initdb", "-D", folder / "data", "-A", "trust", "-U", "mlflow")
        self.start()
        self.as_postgres("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "mlflow", "runs")

    def as_postgres(self, program, *words):
        command = ["runuser", "-u", "postgres", "--", PROGRAMS[-1] / program, *map(str, words)]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)

    def start(self):
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        self.as_postgres("pg_ctl", "-D", self.folder / "data", "-o", options, "-l", self.folder / "log", "-w", "start")

    def stop(self):
        self.as_postgres("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def postgres():
    if not PROGRAMS or os.geteuid() != 0 or shutil.which("runuser") is None:
        pytest.skip("no PostgreSQL here (apt-get install postgresql), or not root")
    folder = Path(tempfile.mkdtemp(prefix="bdh-postgres-"))
    shutil.chown(folder, "postgres")
    database = Postgres(folder)
    yield database
    database.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    """The server's address for its own host name, and for one that it does not allow."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    words = ["--backend-store-uri", f"postgresql+pg8000://mlflow@127.0.0.1:{postgres.port}/runs", "--workers", "1"]
    words += ["--artifacts-destination", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--allowed-hosts", f"127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words], stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}, cwd=folder,
        )  # fmt: skip
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    os.killpg(process.pid, 15)
    process.wait(timeout=60)


def synced(project, uri):
    """What `bdh sync` says twice; `bdh audit` agrees afterwards."""
    said = [project.run("bdh", "sync", MLFLOW_TRACKING_URI=uri).stdout for _ in range(2)]
    assert project.run("bdh", "audit", check=False, MLFLOW_TRACKING_URI=uri).returncode == 0
    return said


def test_server_on_postgresql_is_used_lost_and_made_whole(tmp_path_factory, tmp_path, postgres, server):
    """A store on a server is filled, refuses a wrong host, loses its database in a training and is filled in again."""
    uri, wrong = server
    project = finished_project(tmp_path_factory).copy_to(tmp_path / "copy")
    before = results(project)
    first, second = synced(project, uri)
    assert "4 rebuilt" in first
    assert "4 kept" in second
    refused = project.run("bdh", "audit", check=False, MLFLOW_TRACKING_URI=wrong)
    assert refused.returncode == 2
    assert "403" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    stage = project.start(*TRAIN, MLFLOW_TRACKING_URI=uri, TOY_STOP="wait", MLFLOW_HTTP_REQUEST_TIMEOUT="5")
    end = time.monotonic() + 120
    while not (project.folder / "waiting").exists():
        assert stage.poll() is None, stage.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    postgres.stop()
    (project.folder / "go").touch()
    _, err = stage.communicate(timeout=240)
    assert stage.returncode == 0, err
    (line,) = err.strip().splitlines()
    assert line.startswith("warning: tracking: ")
    assert results(project) == before
    postgres.start()
    time.sleep(1)
    _, again = synced(project, uri)
    assert "4 kept" in again
    assert not project.run("bdh", "repro", MLFLOW_TRACKING_URI=uri).stderr
    record("tracking: PostgreSQL server that is stopped", recovered=1, identical=1)
