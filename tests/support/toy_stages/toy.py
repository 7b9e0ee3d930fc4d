"""Stages that write files of the real shapes in milliseconds and are tracked as the real ones are."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from bdh import tracking
from bdh.params import load, named_settings
from bdh.project.closure import PLAIN_STAGES, SHAPE_STAGE, VARIANT_STAGES
from bdh.project.files import HEBBIAN, RAW, REPORTS, RESULTS, RUNS, TOKENS, TWINS, run_key, shape_key, write_json
from bdh.project.origin import keep_origin

STEPS = range(0, 60, 10)


def code():
    for stage in PLAIN_STAGES:
        write_json(Path("data/code") / f"{stage}.json", {})
    for stage in VARIANT_STAGES:
        for variant in load().variant:
            write_json(Path("data/code") / stage / f"{variant}.json", {})
    for variant in load().variants:
        for corpus in load().corpora:
            write_json(Path("data/code") / SHAPE_STAGE / f"{shape_key(variant, corpus)}.json", {})


def fetch(corpus):
    write_json(RAW / corpus / "provenance.json", {"source": "generated"})


def tokenize(corpus):
    write_json(TOKENS / corpus / "stats.json", {"digest": "d" * 64})


def floors(corpus):
    write_json(RESULTS / "floors" / f"{corpus}.json", {"corpus": corpus})


def history_row(step, rate):
    return {
        "step": step,
        "train_nats": 3.0 - rate * step,
        "validation_nats": 3.1 - rate * step,
        "density_x_sparse_0": 0.1,
    }


def train(variant, corpus, seed):
    key, params = run_key(variant, corpus, seed), load()
    settings = {"train": params.train_of(variant, corpus).model_dump(), "model": params.model_of(variant, corpus)}
    settings["architecture"] = params.architecture_of(variant)
    folder = Path("data/checkpoints") / key / "fingerprint"
    rows = [history_row(step, settings["train"]["learning_rate"]) for step in STEPS]
    tags = {"scale": params.scale, "variant": variant, "corpus": corpus, "seed": str(seed)}
    named = named_settings(variant, corpus=corpus, seed=int(seed), **settings)
    with tracking.tracked("train", key, params=named, tags=tags, resume_folder=folder) as tracker:
        tracker.log_dataset(corpus, "d" * 36, str(TOKENS / corpus), "training")
        for count in range(1, len(rows) + 1):
            tracker.log_history(rows[:count])
            stop_here(count, tracker)
        write_run(key, variant, corpus, seed, settings, rows)
        tracker.log_file(RUNS / key / "samples.json", "samples")
        keep_origin("train", key)


def stop_here(count, tracker):
    """After the third validation, do what the environment asks for."""
    wish = os.environ.get("TOY_STOP") if count == 3 else None
    if wish == "raise":
        raise RuntimeError("as asked")
    if wish == "exit":
        raise SystemExit(143)
    if wish == "wait":
        while tracker.run_id is None:
            time.sleep(0.05)
        Path("waiting").write_text(str(os.getpid()))
        end = time.monotonic() + 600
        while not Path("go").exists() and time.monotonic() < end:
            time.sleep(0.05)


def write_run(key, variant, corpus, seed, settings, rows):
    owner = {"variant": variant, "corpus": corpus, "seed": seed}
    write_json(RUNS / key / "config.json", owner | settings | {"corpus_digest": "d" * 64})
    write_json(RUNS / key / "samples.json", ["To be"])
    (RUNS / key / "model.safetensors").write_bytes(json.dumps(settings, sort_keys=True).encode())
    best = rows[-1]["validation_nats"] / 0.6931
    report = {
        "parameters": 1000,
        "validation/nats_per_token": rows[-1]["validation_nats"],
        "validation/bits_per_byte": best,
    }
    write_json(RESULTS / "train" / f"{key}.json", owner | report | {"density/x_sparse": 0.1, "judged": "raw"})
    write_json(RESULTS / "timing" / f"{key}.json", {"seconds": 1.5, "training_tokens_per_s": 2e4, "device": "cpu"})
    history = RESULTS / "history" / f"{key}.csv"
    history.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    history.write_text("\n".join(lines) + "\n")


def bits(variant, corpus, seed):
    size = (RUNS / run_key(variant, corpus, seed) / "model.safetensors").stat().st_size
    return 2.0 + len(variant) / 100 + int(seed) / 1000 + size / 1e6


def hebbian(variant, corpus, seed):
    key, value = run_key(variant, corpus, seed), bits(variant, corpus, seed)
    with tracking.tracked("hebbian", key, params=load().hebbian.model_dump(), tags={}) as tracker:
        tracker.log_dataset(corpus, "d" * 36, str(TOKENS / corpus), "test")
        arms = {"static": arm(value), "carry": arm(value - 0.05), "observe": None}
        report = {"arms": arms, "density": {"x_sparse": {"mean": 0.1}}, "state": {"norm": 2.5}}
        write_json(HEBBIAN / key / "documents.json", [])
        write_json(RESULTS / "hebbian" / f"{key}.json", {"variant": variant, "corpus": corpus, "seed": seed} | report)
        tracker.log_metrics({"static/bits_per_byte": value})
        keep_origin("hebbian", key)


def arm(value):
    return {"bits_per_byte": value, "perplexity": 2**value, "ci_low": None, "by_year": {"2019": {"bits_per_byte": 1.0}}}


def twins(variant, corpus):
    write_json(TWINS / f"{shape_key(variant, corpus)}.json", {})


def frontier(variant, corpus, seed):
    key = run_key(variant, corpus, seed)
    with tracking.tracked("frontier", key, params=load().frontier.model_dump(), tags={}):
        tmi = {"value": 0.41, "z": 3.2, "null_mean": 0.3}
        report = {"bits_per_byte": bits(variant, corpus, seed), "density": {"x_sparse": {"mean": 0.1, "layer0": 0.2}}}
        report |= {"dead_neurons_share": 0.02, "tmi": tmi, "sps": {"value": 0.7}, "sec": None}
        write_json(RESULTS / "frontier" / f"{key}.json", {"variant": variant, "corpus": corpus, "seed": seed} | report)
        (RESULTS / "curves").mkdir(parents=True, exist_ok=True)
        (RESULTS / "curves" / f"{key}.csv").write_text("metric,x,y,series\ntmi,1,0.4,model\n")
        keep_origin("frontier", key)


def compare():
    with tracking.tracked("compare", "all", params={"scale": load().scale}, tags={}):
        page = "<!doctype html><title>Hatchery</title><h1>Every variant beside every other</h1>"
        shutil.copytree(RESULTS, REPORTS, dirs_exist_ok=True)
        (REPORTS / "index.html").write_text(page)
        for key in (run_key(*run) for run in load().runs()):
            write_json(REPORTS / "metrics" / f"{key}.json", {"bits_per_byte": bits(*key.split("-"))})
        (REPORTS / "plots").mkdir(exist_ok=True)
        (REPORTS / "plots/learning.csv").write_text("run,step,validation_nats\nbdh-sample_plays-0,0,3.1\n")
        (REPORTS / "plots/runs.csv").write_text("run,variant,corpus,seed,bits_per_byte,parameters\na,a,b,0,1.5,9\n")
        (REPORTS / "results.csv").write_text("key\n")
        (REPORTS / "claims.csv").write_text("number\n")
        write_json(REPORTS / "claims.json", {"claims": []})
        found = summary()
        write_json(REPORTS / "summary.json", found)
        tracking.update_champions(found)


def summary():
    """The lowest held-out bits per byte of every corpus."""
    corpora, params = {}, load()
    for corpus in params.corpora:
        best = min((key for key in params.runs() if key[1] == corpus), key=lambda key: bits(*key))
        owner = dict(zip(("variant", "corpus", "seed"), best, strict=True))
        corpora[corpus] = {"lowest": owner | {"key": run_key(*best), "test_bits_per_byte": bits(*best)}}
    return {"runs": {"expected": len(params.runs())}, "corpora": corpora}


def main(stage):
    """Run one stage with the words of the command line; MLflow must never be imported beside it."""
    globals()[stage](*sys.argv[1:])
    assert "mlflow" not in sys.modules
