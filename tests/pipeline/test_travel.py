"""Results travel by DVC alone: a clone without results in git gets them from a remote or a cache and runs nothing dear.

And DVC's own commands answer with tables that fit a terminal, and with plots that need no network.
"""

import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests

from tests.support.tracked_project import TrackedProject, finished_project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
CHEAP = {"code", "compare"}
OURS = ("reports/run/compare",)
"""What may differ in the clone: which MLflow run its own comparison is."""

WIDTH = 140


@pytest.fixture
def project(tmp_path_factory, tmp_path):
    """A finished project with its cache, in a git repository that holds dvc.lock and no results."""
    finished = finished_project(tmp_path_factory).copy_to(tmp_path / "a")
    for words in (("add", "-A"), ("rm", "-rq", "--cached", "--ignore-unmatch", "reports"), ("commit", "-qm", "ran")):
        git(finished, *words)
    return finished


def git(project, *words):
    who = ["-c", "user.name=test", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *who, *words], cwd=project.folder, check=True, capture_output=True)


def clone_of(project, folder, **environment):
    subprocess.run(["git", "clone", "-q", str(project.folder), str(folder)], check=True, capture_output=True)
    assert not (folder / "reports").exists()
    assert not (folder / "data").exists() or [path.name for path in (folder / "data").iterdir()] == ["README.md"]
    return TrackedProject(folder, PYTHONPATH=str(folder), **environment)


def kept(project):
    """The bytes of everything in reports/, by name."""
    top = project.folder / "reports"
    files = {path.relative_to(project.folder).as_posix(): path for path in sorted(top.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(OURS)}


def assert_restored(clone, project, *words):
    assert clone.repro(*words) <= CHEAP
    assert kept(clone) == kept(project)
    assert kept(clone)
    assert clone.repro() == set()


def test_travel_by_a_remote_restores_every_result_and_runs_nothing_dear(project, tmp_path):
    project.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    project.run("dvc", "push", "-q", "--run-cache")
    git(project, "commit", "-qam", "remote")
    assert_restored(clone_of(project, tmp_path / "b"), project, "--pull")


def test_travel_by_a_shared_cache_restores_every_result_and_runs_nothing_dear(project, tmp_path):
    shutil.move(project.folder / ".dvc/cache", tmp_path / "cache")
    project.run("dvc", "cache", "dir", str(tmp_path / "cache"))
    git(project, "commit", "-qam", "cache")
    assert_restored(clone_of(project, tmp_path / "b"), project)


@pytest.fixture
def bucket():
    """Address and settings of a bucket on a server of our own."""
    if find_spec("moto") is None or find_spec("dvc_s3") is None:
        pytest.skip("an S3 server for the test comes with `pip install moto[server] dvc-s3`")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        address = next(line.split(" on ")[1].split()[0] for line in server.stderr if " on http" in line)
        end = time.monotonic() + 60
        while requests.put(f"{address}/results", timeout=10).status_code != 200:
            assert time.monotonic() < end
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.mark.long
def test_travel_by_an_s3_server_restores_every_result_and_runs_nothing_dear(project, tmp_path, bucket):
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    project.environment |= keys
    project.run("dvc", "remote", "add", "-d", "store", "s3://results/hatchery")
    project.run("dvc", "remote", "modify", "store", "endpointurl", bucket)
    project.run("dvc", "push", "-q", "--run-cache")
    git(project, "commit", "-qam", "remote")
    assert_restored(clone_of(project, tmp_path / "b", **keys), project, "--pull")


def lines(done):
    assert "failed to" not in (done.stdout + done.stderr).lower()
    return done.stdout.splitlines()


def test_dvc_commands_answer_with_tables_that_fit_a_terminal(project):
    git(project, "add", "-f", "reports")
    git(project, "commit", "-qm", "results")
    path = "reports/metrics/bdh-sample_plays-0.json"
    (project.folder / path).write_text('{"bits_per_byte": 1.25}')
    shown = lines(project.run("dvc", "metrics", "show"))
    changed = lines(project.run("dvc", "metrics", "diff"))
    narrow = ("exp", "show", "--no-pager", "--drop", ".*", "--keep", "Experiment|.*bits_per_byte")
    table = lines(project.run("dvc", *narrow))
    for found in (shown, changed, table):
        assert any("1.25" in line for line in found)
        assert max(map(len, found)) <= WIDTH
    assert len(shown) == 2, "a line per run, with its name on the left"
    assert shown[1].startswith(path)


def test_dvc_plots_load_and_their_page_needs_no_network(project):
    git(project, "add", "-f", "reports")
    git(project, "commit", "-qm", "results")
    for words in (("show",), ("diff", "HEAD")):
        lines(project.run("dvc", "plots", *words))
        page = (project.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
        assert page.count("vegaEmbed('#") == 3
        assert "src=" not in page.partition("</head>")[2]
        assert 'src="http' not in page
    told = subprocess.run(["git", "status", "--porcelain"], cwd=project.folder, capture_output=True, text=True).stdout
    assert "dvc_plots" not in told


def test_dvc_plots_templates_are_named_in_the_pipeline():
    named = {path.stem for path in Path(".dvc/plots").glob("*.json")}
    declared = {line.split()[1] for line in Path("dvc.yaml").read_text().splitlines() if "template:" in line}
    assert named == declared
