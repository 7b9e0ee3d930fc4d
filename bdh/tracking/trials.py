"""Trials of `bdh tune` in MLflow: one run per row of docs/tuning.csv, in an experiment of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from bdh.tracking.mirror import is_number
from bdh.tracking.store import EXPERIMENT, Store

TUNING = f"{EXPERIMENT}-tuning"
TAG = "trial"
NAMES = ("scale", "corpus", "variant", "draw", "commit", "device")


def mirror_trials(store: Store, rows: list[dict[str, str]]) -> int:
    """Add the trials that the store lacks; how many. Equal rows make one run, so that repeating it adds nothing."""
    client = store.client
    experiment = client.get_experiment_by_name(TUNING)
    experiment_id = client.create_experiment(TUNING) if experiment is None else experiment.experiment_id
    known = _known(client, experiment_id)
    missing = [row for row in rows if identity_of(row) not in known]
    for row in missing:
        tags = {name: row[name] for name in NAMES if row.get(name)} | {TAG: identity_of(row)}
        name = f"{row['variant']}-{row['corpus']}-{row['draw']}"
        run = client.create_run(experiment_id, tags=tags, run_name=name)
        for key, value in row.items():
            if key.startswith(("model.", "train.")) and value:
                client.log_param(run.info.run_id, key, value)
            elif key not in NAMES and (number := _number(value)) is not None:
                client.log_metric(run.info.run_id, key, number)
        client.set_terminated(run.info.run_id, "FAILED" if row.get("diverged_at") else "FINISHED")
    return len(missing)


def identity_of(row: Mapping[str, str]) -> str:
    """A trial by everything that its row says."""
    text = "\n".join(f"{name}={row[name]}" for name in sorted(row) if row[name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known(client: Any, experiment_id: str) -> set[str]:
    found, token = set(), None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        found |= {run.data.tags.get(TAG, "") for run in page}
        token = page.token
        if not token:
            return found


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if is_number(number) else None
