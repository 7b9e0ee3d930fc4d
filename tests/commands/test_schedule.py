"""Several pieces at a time: order, failures, memory, a clean stop, and what happens when the scheduler is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from bdh.commands.costs import GUESSED_MIB, cost_of
from bdh.commands.repro import works_of
from bdh.commands.schedule import Cards, Schedule, Work
from bdh.params import load
from tests.support.tracked_project import TrackedProject

ROOT = Path(__file__).resolve().parents[2]
SLOW_STAGE = """
import signal, sys, time
from pathlib import Path

def stop(*_):
    Path(sys.argv[1]).write_text("checkpoint")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1] + ".started").touch()
time.sleep(120)
"""
KILLED = """
import sys
from bdh.commands.schedule import Cards, Schedule, Work
Schedule([Work("a", tuple(sys.argv[1:]))], 1, Cards({}, 1)).run()
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def python(text, *words):
    return (sys.executable, "-c", text, *words)


def noting(name, more=""):
    return python(f"open('order', 'a').write('{name} ')\n{more}")


def run(works, jobs=1, cards=None, **options):
    told = []
    return Schedule(works, jobs, Cards(cards or {}, jobs), told=told.append, **options).run(), told


def test_schedule_finishes_chains_first_then_takes_the_longest():
    works = [
        Work("short", noting("short"), seconds=1),
        Work("last", noting("last"), frozenset(["long"]), seconds=1, urgent=True),
        Work("long", noting("long"), seconds=100),
        Work("middle", noting("middle"), seconds=10),
    ]
    outcome, told = run(works)
    assert Path("order").read_text().split() == ["long", "last", "middle", "short"]
    assert outcome.done == ["long", "last", "middle", "short"]
    assert told[0].startswith("1/4 long ")
    assert "3 left, about 12 s" in told[0]
    assert told[-1].endswith("none left")


def test_schedule_goes_on_after_a_failure_and_says_what_rested_on_it():
    """The first failure ended the night's work of all other cells."""
    works = [
        Work("bad", python("import sys; sys.exit('error: no such thing')"), seconds=9),
        Work("needs", noting("needs"), frozenset(["bad"])),
        Work("good", noting("good")),
    ]
    outcome, _ = run(works)
    assert outcome.done == ["good"]
    assert outcome.failed == {"bad": "ended with 1: error: no such thing", "needs": "not run: it rests on bad"}
    assert Path("order").read_text() == "good "


def test_schedule_tries_what_ran_out_of_memory_again_alone():
    crash = "import os, sys, time\ntime.sleep(0.3)\n"
    crash += "if os.path.exists('running'): sys.exit('torch.OutOfMemoryError: CUDA out of memory')"
    other = "import os, time\nopen('running', 'w').close()\ntime.sleep(1)\nos.remove('running')"
    outcome, told = run([Work("big", python(crash), seconds=9), Work("other", python(other))], jobs=2)
    assert outcome.done == ["other", "big"]
    assert outcome.failed == {}
    assert any("big ran out of memory" in line for line in told)


def test_schedule_that_always_runs_out_of_memory_is_a_failure():
    outcome, _ = run([Work("big", python("import sys; sys.exit('CUDA out of memory')")), Work("x", noting("x"))])
    assert outcome.failed == {"big": "ended with 1: CUDA out of memory"}
    assert outcome.done == ["x"]


def slow(name):
    """A shell that starts a stage, as dvc does."""
    Path("stages").mkdir(exist_ok=True)
    Path("stages/__init__.py").touch()
    Path("stages/slow.py").write_text(SLOW_STAGE)
    return ("sh", "-c", f"{sys.executable} -m stages.slow {name}; exit $?")


def test_schedule_stops_at_its_limit_with_checkpoints_and_names_what_is_left():
    works = [Work("a", slow("a"), seconds=9), Work("b", slow("b"), seconds=8), Work("c", noting("c"), seconds=1)]
    began = time.monotonic()
    outcome, told = run(works, jobs=2, limit_s=6.0)
    assert time.monotonic() - began < 60
    assert outcome.stopped
    assert (outcome.done, outcome.failed) == ([], {})
    assert outcome.left == ["a", "b", "c"]
    assert [Path(name).read_text() for name in "ab"] == ["checkpoint"] * 2
    assert "2 pieces are stopped" in told[-1]
    assert not Path("order").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells children")
def test_schedule_that_is_killed_leaves_no_orphan():
    """A second `bdh repro` met the trainings of the first, which nobody owned."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}"}
    command = [sys.executable, "-c", KILLED, sys.executable, "-c", SLOW_STAGE, "a"]
    scheduler = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 60
    while not Path("a.started").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    scheduler.send_signal(signal.SIGKILL)
    scheduler.wait()
    while not (Path("a").exists() and Path("a").read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)


COMMANDS = {
    "jobs": """
import sys, typer
from bdh.commands import repro
from bdh.commands.schedule import Work
slow = f"{sys.executable} -m stages.slow"
repro.works_of = lambda *_, **__: [Work(n, ("sh", "-c", f"{slow} {n}; exit $?")) for n in "abc"]
try:
    repro.run_chains(None, [], 2)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
""",
    "foreground": """
import sys
from bdh.commands.repro import call
call(["sh", "-c", f"{sys.executable} -m stages.slow a; exit $?"])
call(["sh", "-c", "touch order"])
""",
}


@pytest.mark.parametrize("how", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=["TERM", "INT", "KILL"])
def test_repro_passes_signals_on_and_starts_no_more(how, number):
    """Children ran on after SIGTERM and SIGKILL; SIGINT to a background job did nothing. Exit code 128 + n."""
    slow("a")
    environment = os.environ | {"PYTHONPATH": f".{os.pathsep}{ROOT}"}
    ignored = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731 - as a shell starts a background job
    command = subprocess.Popen([sys.executable, "-c", COMMANDS[how]], env=environment, preexec_fn=ignored)
    began = ["a", "b"] if how == "jobs" else ["a"]
    wait_for(lambda: all(Path(f"{name}.started").exists() for name in began))
    # When the command is killed outright, what it started is told, as dvc is; a stage itself watches for its dvc's end.
    children = psutil.Process(command.pid).children(recursive=number != signal.SIGKILL)
    command.send_signal(number)
    assert command.wait(timeout=60) == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert [Path(name).read_text() for name in began] == ["checkpoint"] * len(began)
    assert not Path("c.started").exists()
    assert not Path("order").exists()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)


def wait_for(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def params_of(tmp_path):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"scale": "gpu", "corpora": ["shakespeare"], "variants": ["bdh", "recurrent"], "seeds": [0, 1]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load(tmp_path / "params.yaml")


def timing(path, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"device": "NVIDIA H100", "tokens_per_s": 1e6, "peak_memory_mib": 40_000} | values))


def test_schedule_costs_are_those_of_an_earlier_run_of_the_variant(tmp_path):
    params = params_of(tmp_path)
    tokens = 3000 * 32 * 512
    assert cost_of(params, "bdh", "shakespeare", 0, gpu=True).memory == GUESSED_MIB
    assert not cost_of(params, "bdh", "shakespeare", 0, gpu=True).measured
    timing(tmp_path / "data/results/timing/bdh-shakespeare-1.json")
    timing(tmp_path / "reports/timing/bdh-shakespeare-2.json", device="cpu", tokens_per_s=1.0)
    cost = cost_of(params, "bdh", "shakespeare", 0, gpu=True)
    assert cost.measured
    assert (cost.training, cost.memory) == (tokens / 1e6, pytest.approx(40_000 * 1.15 + 1024))
    timing(tmp_path / "data/timing/bdh-shakespeare-0.json", tokens_per_s=2e6)
    assert cost_of(params, "bdh", "shakespeare", 0, gpu=True).training == tokens / 2e6, "its own timing is the nearest"
    assert cost_of(params, "recurrent", "shakespeare", 0, gpu=True).training == 0.0


def test_schedule_of_runs_has_twins_once_and_every_frontier_last(tmp_path):
    works = {
        work.name: work for work in works_of(params_of(tmp_path), ["bdh-shakespeare-0", "bdh-shakespeare-1"], True)
    }
    assert list(works) == [
        "floors-shakespeare", "twins-bdh-shakespeare", "bdh-shakespeare-0-train", "bdh-shakespeare-0",
        "bdh-shakespeare-1-train", "bdh-shakespeare-1",
    ]  # fmt: skip
    assert works["bdh-shakespeare-1"].after == {"twins-bdh-shakespeare", "bdh-shakespeare-1-train"}
    assert works["bdh-shakespeare-1-train"].command[-2:] == ("train@bdh-shakespeare-1", "hebbian@bdh-shakespeare-1")


@pytest.mark.timeout(900)
def test_schedule_of_a_pipeline_names_failures_and_goes_on_with_the_same_command(tmp_path):
    project = TrackedProject(tmp_path / "project", variants=("bdh", "eq8"))
    done = project.run("bdh", "repro", "--jobs", "2", check=False, TOY_STOP="raise")
    assert done.returncode == 1
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed: ") and "(data/logs" in line]
    assert {line.split()[1] for line in failures} == {
        f"{name}-sample_plays-0{part}" for name in ("bdh", "eq8") for part in ("", "-train")
    }
    assert not (project.folder / "reports/summary.json").exists()
    again = project.run("bdh", "repro", "--jobs", "2").stdout
    assert "7/7" in again
    assert (project.folder / "reports/summary.json").exists()
    twins = (project.folder / "data/logs/twins-bdh-sample_plays.log").read_text()
    assert "Running stage" not in twins, "what is done is not done again"
