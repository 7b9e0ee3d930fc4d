"""A folder in which the stage `train` can run, and the stage in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.toys import write_corpus

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"n_layer": 1, "n_embd": 8, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.2}
TRAIN = {
    "steps": 12, "batch_size": 4, "window": 16, "warmup_steps": 2, "validate_every": 4, "validation_windows": 4,
    "checkpoint_every": 3,
}  # fmt: skip


def make_project(folder, params=None, model=None, **train):
    """A folder with params.yaml and a tokenized corpus, as the pipeline leaves them for the stage."""
    folder.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"device": "cpu", "precision": "float32"} | (params or {})
    values["scales"]["laptop"]["model"] |= MODEL | (model or {})
    values["scales"]["laptop"]["train"] |= TRAIN | train
    values["corpus"]["sample_plays"]["scales"]["laptop"] = {"model": {}, "train": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    write_corpus(folder / "data/tokens/sample_plays", "sample_plays")
    return folder


def start(folder, *arguments, tracking="off", **options):
    """The stage in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/m.db"}
    environment |= {"BDH_TRACKING": tracking}
    return subprocess.Popen(
        [sys.executable, *(arguments or ("-m", "stages.train", "bdh", "sample_plays", "0"))],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
