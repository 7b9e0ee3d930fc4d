"""Tracking that fails in every way: the work goes on after one line, and `bdh sync` makes the store whole again."""

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bdh.tracking.store import StoreError, open_store
from bdh.tracking.sync import audit, sync
from tests.reliability.disturbed import results
from tests.reliability.faults import record
from tests.support.tracked_project import UNWANTED, TrackedProject, finished_project

pytestmark = pytest.mark.slow
TRAIN = ("stages.train", "bdh", "sample_plays", "0")
TRACKED = 4
"""Stages of the finished project that have a run: train, hebbian, frontier, compare."""
OUTAGE = "tracking: server that dies, refuses or is slow"
VERSION = "tracking: server of another version"
DATABASE = "tracking: database locked, cut short or deleted"
UNKNOWN = {"error_code": "ENDPOINT_NOT_FOUND", "message": "No route"}
SERVERS = {
    "wrong host header": (OUTAGE, 403, b"Invalid Host header - possible DNS rebinding attack detected", "403"),
    "wants a name": (OUTAGE, 401, b"You are not authenticated", "401"),
    "its database is gone": (OUTAGE, 500, b"Internal Server Error", "500"),
    "a page of a proxy": (OUTAGE, 200, b"<html>please sign in</html>", ""),
    "never answers": (OUTAGE, None, b"", "timed out"),
    "does not know the call": (VERSION, 404, json.dumps(UNKNOWN).encode(), "No route"),
    "answers in another shape": (VERSION, 200, b'{"experiments": 3}', "answers, but not as"),
}
"""What a server does: its fault, status (None: no answer), body, and a word of the warning."""


@pytest.fixture
def copy(tmp_path_factory, tmp_path, monkeypatch):
    """A copy of a finished project with its store, as the current folder."""
    finished = finished_project(tmp_path_factory)
    project = finished.copy_to(tmp_path / "copy")
    for part in finished.folder.glob("mlflow.db*"):
        shutil.copy(part, project.folder / part.name)
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(project.folder)
    return project


@pytest.fixture
def server():
    """A function that starts a server which answers everything alike, and tells its address."""
    started, over = [], threading.Event()

    def start(status, body):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if status is None:
                    over.wait(60)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        web = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        web.daemon_threads = True
        threading.Thread(target=web.serve_forever, daemon=True).start()
        started.append(web)
        return f"http://127.0.0.1:{web.server_port}"

    yield start
    over.set()
    for web in started:
        web.shutdown()
        web.server_close()


def made_whole():
    """Sync twice: the first makes every stage's run or finds it, the second keeps them all."""
    store = open_store()
    first, second = sync(store), sync(store)
    assert {action.done for action in second} == {"kept"}
    assert len(second) == TRACKED
    assert audit(store) == []
    return {action.done for action in first}


@pytest.mark.parametrize("kind", SERVERS)
def test_server_that_is_no_help_is_one_line_and_sync_fills_in(copy, server, kind):
    """Catches a stage that fails, waits for minutes or says pages when a server does."""
    fault, status, body, word = SERVERS[kind]
    before, address = results(copy), server(status, body)
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = copy.run(*TRAIN, MLFLOW_TRACKING_URI=address, **limits)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("warning: tracking: ")
    assert address.removeprefix("http://") in line
    assert word in line
    assert "bdh sync" in line
    assert copy.pointer()["run_id"] is None
    assert results(copy) == before
    made_whole()
    record(fault, recovered=1, identical=1)


@pytest.mark.parametrize("kind", ["cut short", "cut to nothing", "overwritten in the middle", "deleted"])
def test_database_that_is_damaged_is_one_line_and_is_made_anew(copy, kind):
    """Catches a damaged store that is believed, and advice that leads nowhere."""
    before, database = results(copy), copy.folder / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = database.stat().st_size
    if kind == "deleted":
        database.unlink()
    else:
        with database.open("r+b") as file:
            if kind == "overwritten in the middle":
                file.seek(4096)
                file.write(b"\xff" * (size - 8192))
            else:
                file.truncate(size // 2 if kind == "cut short" else 0)
        if kind != "cut to nothing":
            told = copy.run("bdh", "audit", check=False)
            assert told.returncode == 2, told.stdout
            (line,) = told.stderr.strip().splitlines()
            assert "move mlflow.db* away and run `bdh sync`" in line
            with pytest.raises(StoreError, match=r"move mlflow\.db"):
                sync(open_store())
            for part in copy.folder.glob("mlflow.db*"):
                part.unlink()
    assert made_whole() == {"rebuilt"}
    assert results(copy) == before
    record(DATABASE, recovered=1, identical=1)


def test_database_that_is_locked_costs_a_line_and_is_filled_in(copy):
    before = results(copy)
    other = sqlite3.connect(copy.folder / "mlflow.db")
    other.execute("BEGIN EXCLUSIVE")
    done = copy.run(*TRAIN)
    other.close()
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("warning: tracking: ")
    assert "locked" in line
    assert results(copy) == before
    made_whole()
    record(DATABASE, recovered=1, identical=1)


@pytest.mark.long
def test_eight_first_stages_at_once_share_one_fresh_store(tmp_path):
    fresh = TrackedProject(tmp_path / "fresh", variants=("bdh", "transformer"))
    stages = [fresh.start("stages.train", v, "sample_plays", seed) for v in ("bdh", "transformer") for seed in "0123"]
    for stage in stages:
        _, err = stage.communicate(timeout=240)
        assert (stage.returncode, err) == (0, "")
    with sqlite3.connect(fresh.folder / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'hatchery'").fetchone() == (1,)
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 8
    record("tracking: eight stages at once on an empty store", injected=8, recovered=8, identical=8)
