"""Gather the results of a study that was run in slices: rows of reports/reference/summary.json and the small files.

    python -m benchmarks.study --commit HASH reference=FOLDER tuned=FOLDER

FOLDER is a project in which cells were run at `scale: gpu` (train and hebbian are enough), one per recipe; it holds
reports/ and params.yaml. Files of every finished cell are copied to reports/reference/<recipe>/, the rows of the
summary are made from all that lies there. A cell that is in a recipe's params.yaml and has no result is listed under
`not_run`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import product
from pathlib import Path

import yaml

from bdh.project.files import read_json, run_key, write_json

TARGET = Path("reports/reference")
KINDS = {"train": "json", "hebbian": "json", "timing": "json", "history": "csv"}
ARMS = ("static", "carry")


def read_params(path: Path) -> dict:
    """params.yaml as it was when the cells ran; keys that came later may be missing, so it is not validated."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def cells_of(params: dict) -> product:
    """Every (variant, corpus, seed) of a params.yaml."""
    return product(params["variants"], params["corpora"], params["seeds"])


def gather(recipe: str, folder: Path, commit: str) -> None:
    """Copy the small files of every finished cell of a project, and the parameters that they were made with."""
    params = read_params(folder / "params.yaml")
    for variant, corpus, seed in cells_of(params):
        key = run_key(variant, corpus, seed)
        files = {kind: folder / "reports" / kind / f"{key}.{ending}" for kind, ending in KINDS.items()}
        if not all(path.exists() for path in files.values()):
            continue
        for kind, path in files.items():
            target = TARGET / recipe / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        write_json(TARGET / recipe / "origin" / f"{key}.json", {"commit": commit})
    shutil.copyfile(folder / "params.yaml", TARGET / recipe / "params.yaml")


def rows_of(recipe: str, params: dict) -> tuple[list[dict], list[dict]]:
    """Rows of the finished cells of a recipe, and its cells without a result."""
    rows, missing = [], []
    for variant, corpus, seed in cells_of(params):
        key = run_key(variant, corpus, seed)
        cell = {"variant": variant, "corpus": corpus, "seed": seed, "recipe": recipe}
        found = {kind: TARGET / recipe / kind / f"{key}.json" for kind in ("train", "hebbian", "timing", "origin")}
        if not all(path.exists() for path in found.values()):
            missing.append(cell)
            continue
        train, held_out, timing, origin = (read_json(found[kind]) for kind in ("train", "hebbian", "timing", "origin"))
        row = cell | {
            "split": params["corpus"][corpus]["text"]["split"]["by"],
            "nats_per_token": held_out["arms"]["static"]["nats_per_token"],
            "bits_per_byte": held_out["arms"]["static"]["bits_per_byte"],
            "carry_nats_per_token": held_out["arms"]["carry"]["nats_per_token"],
            "validation_nats_per_token": train["validation/nats_per_token"],
            "parameters": train["parameters"],
            "steps": train["best_step"],
            "steps_done": train["steps_done"],
            "tokens_seen": train["tokens_seen"],
            "gpu_seconds": timing["seconds"],
            "device": timing["device"],
            "commit": origin["commit"],
        }
        rows.append(row)
    return rows, missing


def main() -> None:
    """Gather what the arguments name, then write the summary of everything gathered so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="RECIPE=FOLDER")
    parser.add_argument("--commit", default="", help="commit that the cells were run with")
    options = parser.parse_args()
    for named in options.folders:
        recipe, _, folder = named.partition("=")
        gather(recipe, Path(folder), options.commit)
    rows, missing = [], []
    for path in sorted(TARGET.glob("*/params.yaml")):
        done, left = rows_of(path.parent.name, read_params(path))
        rows += done
        missing += left
    write_json(TARGET / "summary.json", {"rows": rows, "not_run": missing})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
