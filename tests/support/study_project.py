"""A study in a folder, and projects in which some of its cells were run: files as the pipeline leaves them."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import yaml

from bdh.params import load
from tests.support.report_fixtures import write_corpus, write_run

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "title": "A small study",
    "cells": [
        {"recipe": "reference", "variants": ["bdh", "transformer"], "corpora": ["sample_calls"], "seeds": [0, 1]},
        {"recipe": "tuned", "variants": ["bdh", "eq8"], "corpora": ["sample_calls"], "seeds": [0, 1]},
    ],
}
PARTS = {
    "train": ("data/results/train/{key}.json", "data/results/timing/{key}.json", "data/results/history/{key}.csv"),
    "hebbian": ("data/results/hebbian/{key}.json",),
    "frontier": ("data/results/frontier/{key}.json", "data/results/curves/{key}.csv"),
}


def study_params(recipe="reference", **values):
    """params.yaml at scale gpu with one chosen setting; `values` by dotted name."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"scale": "gpu", "recipe": recipe, "corpora": ["sample_calls"], "variants": ["bdh"], "seeds": [0, 1]}
    raw["tuned"]["gpu"] = {"sample_calls": {"bdh": {"model": {}, "train": {"learning_rate": 0.002}}}}
    for dotted, value in values.items():
        *path, last = dotted.split(".")
        section = raw
        for part in path:
            section = section[part]
        section[last] = value
    return raw


def write_yaml(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def make_study(folder, plan=None, **values):
    """A repository at `folder` with an empty study in reports/reference."""
    study = folder / "reports/reference"
    write_yaml(study / "study.yaml", plan or PLAN)
    write_yaml(study / "params.yaml", study_params(**values))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", "README.md", "benchmarks/results/h200_scaling.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return study


def make_project(folder, recipe="reference", cells=(("bdh", 0),), stages=tuple(PARTS), **values):
    """A project in which `stages` of `cells` (variant, seed) ran, with the dvc.lock that DVC would have written."""
    raw = study_params(recipe, **values)
    raw["variants"], raw["seeds"] = list(dict.fromkeys(v for v, _ in cells)), sorted({s for _, s in cells})
    write_yaml(folder / "params.yaml", raw)
    write_corpus(folder, "sample_calls")
    params, locked = load(folder / "params.yaml"), {}
    for place, (variant, seed) in enumerate(cells):
        key = f"{variant}-sample_calls-{seed}"
        write_run(folder, variant, "sample_calls", seed, place, np.random.default_rng(place))
        (folder / f"data/runs/{key}/model.safetensors").write_bytes(b"weights")
        manifest = folder / f"data/code/train/{variant}.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        inherited = json.loads(json.dumps(params.inherited_by(variant)))
        manifest.write_text(json.dumps({"files": {}, "inherited": inherited}))
        for stage, names in PARTS.items():
            if stage not in stages:
                for name in names:
                    (folder / name.format(key=key)).unlink()
                continue
            named = {"train": {"scales.gpu": raw["scales"]["gpu"]}, "hebbian": {"hebbian.gpu": raw["hebbian"]["gpu"]}}
            locked[f"{stage}@{key}"] = {
                "cmd": f"python -m stages.{stage}",
                "deps": [entry(folder, f"data/code/train/{variant}.json")] if stage == "train" else [],
                "params": {"params.yaml": named.get(stage, {})},
                "outs": [entry(folder, name.format(key=key)) for name in names],
            }
    write_yaml(folder / "dvc.lock", {"schema": "2.0", "stages": locked})
    return folder


def entry(folder, name):
    data = (folder / name).read_bytes()
    return {"path": name, "hash": "md5", "md5": hashlib.md5(data).hexdigest(), "size": len(data)}


def snapshot(folder, *names):
    """Every file below some names of a folder with its bytes; a study inside is left out."""
    found = {}
    for name in names:
        top = folder / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "reports/reference" not in path.as_posix():
                found[os.path.relpath(path, folder)] = path.read_bytes()
    return found
