"""A copy of this repository in a folder of its own, with small settings, driven as a user drives it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SMALL_TRAIN = {
    "steps": 8,
    "batch_size": 4,
    "window": 32,
    "warmup_steps": 2,
    "validate_every": 4,
    "validation_windows": 4,
    "checkpoint_every": 4,
}
SMALL_MODEL = {"n_layer": 2, "n_embd": 32, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.1}


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of commands in a project."""
    kept = {k: v for k, v in os.environ.items() if k not in ("BDH_CORPORA_MIRROR", "MLFLOW_TRACKING_URI")}
    own = {"PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | own


class Project:
    """A repository in `folder` made of the tracked and the new files of this one."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.split(b"\0")
        for name in {entry.decode() for entry in listed if entry}:
            source = ROOT / name
            if source.is_file() and not name.startswith(("reports/", "dvc.lock")):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        self.environment = environment_of(folder) | (environment or {})
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "start")

    @classmethod
    def there(cls, folder: Path) -> "Project":
        """The project that is in `folder` already, a copy of another."""
        project = cls.__new__(cls)
        project.folder, project.environment = folder, environment_of(folder)
        return project

    def git(self, *words):
        subprocess.run(["git", *words], cwd=self.folder, check=True, capture_output=True)

    def read_params(self):
        return yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))

    def set(self, **values):
        raw = self.read_params()
        for dotted, value in values.items():
            *path, last = dotted.split(".")
            section = raw
            for part in path:
                section = section[part]
            section[last] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")

    def make_small(self, variants, corpora):
        raw = self.read_params()
        raw["variants"], raw["corpora"] = variants, corpora
        raw["device"] = "cpu"
        raw["scales"]["laptop"]["model"] = SMALL_MODEL
        raw["scales"]["laptop"]["train"] |= SMALL_TRAIN
        raw["hebbian"]["bootstrap"] = 50
        raw["hebbian"]["laptop"] = {"window": 32, "max_tokens": 1024}
        raw["frontier"]["laptop"]["max_tokens"] = 512
        raw["frontier"]["twins"] = 3
        for section in raw["corpus"].values():
            if section["source"]["kind"] == "generated":
                section["source"]["documents"] = 16
        (self.folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")

    def command(self, *words):
        return [sys.executable, "-m", *words]

    def run(self, *words, check=True, timeout=1400):
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{words} ended with {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done

    def repro(self, *words, check=True):
        return self.run("dvc", "repro", *words, check=check)

    def start(self, *words):
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, pattern, seconds=120):
        """Wait until a file that matches the glob `pattern` exists."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = sorted(self.folder.glob(pattern))
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} after {seconds} s")

    def training_processes(self):
        """Process ids of the training stages that run in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                here = (entry / "cwd").resolve() == self.folder.resolve()
            except OSError:
                continue
            if here and b"stages.train" in words:
                found.append(int(entry.name))
        return found

    def wait_until_quiet(self, seconds=60):
        """Wait until no training runs in this folder."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.training_processes():
                return
            time.sleep(0.1)
        raise AssertionError(f"still training after {seconds} s: {self.training_processes()}")

    def wait_until(self, condition, seconds=60):
        """Wait until `condition()` holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not so after {seconds} s"
            time.sleep(0.2)

    def read_until(self, process, word):
        """What a process says up to a line with `word` in it, or all of it."""
        seen = ""
        for line in process.stdout:
            seen += line
            if word in line.lower():
                break
        return seen

    def kill_group(self, process, number=signal.SIGKILL):
        os.killpg(process.pid, number)

    def mlflow_runs(self):
        """The states of all MLflow runs that are not deleted."""
        with sqlite3.connect(self.folder / "mlflow.db") as store:
            return [state for (state,) in store.execute("select status from runs where lifecycle_stage = 'active'")]

    def stages_run(self, output):
        """Names of the stages that a `dvc repro` really ran."""
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}
