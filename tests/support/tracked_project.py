"""A repository with the real dvc.yaml and stages that take milliseconds, for tests of tracking, audit, sync and UI."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("code", "fetch", "tokenize", "floors", "train", "hebbian", "twins", "frontier", "compare")
UNWANTED = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "DVC_ROOT",
    "DVC_STAGE",
    "BDH_TRACKING",
    "BDH_CORPORA_MIRROR",
    "RANK",
)


class TrackedProject:
    """One such repository in `folder`."""

    def __init__(self, folder: Path, variants=("bdh",), corpora=("sample_plays",), **environment: str):
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
        self.environment = {**kept, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1", **environment}
        if folder.exists() and any(folder.iterdir()):
            return
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "bdh", folder / "bdh", ignore=ignored, dirs_exist_ok=True)
        (folder / "stages").mkdir()
        shutil.copy(ROOT / "tests/support/toy_stages/toy.py", folder / "stages/toy.py")
        for name in STAGES:
            (folder / f"stages/{name}.py").write_text(f"from stages.toy import main\n\nmain({name!r})\n")
        for name in ("dvc.yaml", ".dvcignore", ".gitignore", "benchmarks/results/h200_scaling.json", "docs/tuning.csv"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        raw |= {"variants": list(variants), "corpora": list(corpora)}
        self.write_params(raw)
        for words in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
            names = {
                f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
            }
            subprocess.run(words, cwd=folder, check=True, env={**self.environment, **names})
        self.run("dvc", "init", "-q")
        shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
        shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")

    def write_params(self, raw):
        text = yaml.safe_dump(raw, sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def read_params(self):
        return yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))

    def start(self, *words, **environment: str):
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words, check=True, **environment: str):
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=240)
        done = subprocess.CompletedProcess(words, process.returncode, out, err)
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{out}\n{err}"
        return done

    def repro(self, *words, **environment: str):
        """Stages that `dvc repro` really ran."""
        out = self.run("dvc", "repro", *words, **environment).stdout
        return {line.split("'")[1] for line in out.splitlines() if line.startswith("Running stage")}

    def pointer(self, stage="train", key="bdh-sample_plays-0"):
        return json.loads(self.pointer_path(stage, key).read_text())

    def pointer_path(self, stage="train", key="bdh-sample_plays-0"):
        """The pointer where it was written, in a clone without `data/` the copy that git brought."""
        places = [self.folder / f"{home}/run/{stage}/{key}.json" for home in ("data/results", "reports")]
        return next((path for path in places if path.exists()), places[stage == "compare"])

    def copy_to(self, folder: Path):
        """The same repository elsewhere, without its store."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns"))
        return TrackedProject(folder, PYTHONPATH=str(folder))


_finished: list[TrackedProject] = []


def finished_project(factory) -> TrackedProject:
    """A project after its first `dvc repro`, with its store; tests that change something take a copy.

    One `dvc repro` serves every process of the test session; each process works on a copy of its own.
    """
    if not _finished:
        root = factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            root = root.parent
        made, done = root / "finished", root / "finished.done"
        with FileLock(root / "finished.lock"):
            if not done.exists():
                shutil.rmtree(made, ignore_errors=True)
                TrackedProject(made).repro()
                done.touch()
        own = factory.mktemp("finished") / "project"
        shutil.copytree(made, own, symlinks=True)
        _finished.append(TrackedProject(own))
    return _finished[0]
