"""One registered model per corpus; its alias `champion` follows the best held-out bits per byte.

Weights stay where DVC keeps them: a version's source is `dvc://<path of the run>?md5=<its DVC hash>`, and the logged
model behind it is MLflow's external kind, which has metadata only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bdh.project.files import RUNS
from bdh.project.lockfile import load_lock, outputs, stage_name
from bdh.tracking.identity import read_pointer
from bdh.tracking.mirror import is_number
from bdh.tracking.runs import run_of
from bdh.tracking.store import Store

ALIAS = "champion"
METRIC = "test/bits_per_byte/static"
SCHEME = "dvc://"


@dataclass(frozen=True)
class Candidate:
    """One trained model: its run's key and its held-out bits per byte with frozen weights and fresh state."""

    key: str
    variant: str
    corpus: str
    seed: int
    bits_per_byte: float


def model_name(corpus: str) -> str:
    """Name of a corpus in the registry."""
    return f"hatchery-{corpus}"


def champions(summary: Mapping[str, Any]) -> Iterator[Candidate]:
    """The best model of every corpus of a comparison's summary (`corpora.<corpus>.lowest`)."""
    for corpus, section in (summary.get("corpora") or {}).items():
        lowest = section.get("lowest")
        if lowest and is_number(lowest.get("test_bits_per_byte")):
            bits = float(lowest["test_bits_per_byte"])
            yield Candidate(lowest["key"], lowest["variant"], corpus, int(lowest["seed"]), bits)


def crown(store: Store, summary: Mapping[str, Any]) -> dict[str, str]:
    """Move every corpus's alias to its best model; returns the key of the champion by corpus."""
    hashes = outputs(load_lock())
    best = {candidate.corpus: candidate for candidate in champions(summary)}
    for candidate in best.values():
        _crown_one(store, candidate, hashes.get(str(RUNS / candidate.key), ""))
    return {corpus: candidate.key for corpus, candidate in best.items()}


def _crown_one(store: Store, candidate: Candidate, md5: str) -> None:
    name = model_name(candidate.corpus)
    source = f"{SCHEME}{RUNS / candidate.key}?md5={md5}"
    version = _existing_version(store, name, source) or _new_version(store, name, source, candidate, md5)
    store.client.set_registered_model_alias(name, ALIAS, version)


def _existing_version(store: Store, name: str, source: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name, description="Best held-out bits per byte; weights are kept by DVC.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = store.client.search_model_versions(f"name = '{name}'")
    return next((version.version for version in versions if version.source == source), None)


def _new_version(store: Store, name: str, source: str, candidate: Candidate, md5: str) -> str:
    """A version whose logged model is external: parameters, tags and the score, no file of weights."""
    run = run_of(store, stage_name("train", candidate.key), read_pointer("train", candidate.key))
    run_id = run.info.run_id if run is not None else None
    tags = {"dvc.out": str(RUNS / candidate.key), "dvc.md5": md5, "variant": candidate.variant}
    tags |= {"corpus": candidate.corpus, "seed": str(candidate.seed), METRIC: f"{candidate.bits_per_byte:.6f}"}
    model = store.client.create_logged_model(
        store.experiment_id,
        name=candidate.key,
        source_run_id=run_id,
        tags=tags,
        params=dict(run.data.params) if run is not None else None,
        model_type=candidate.variant,
    )
    store.client.finalize_logged_model(model.model_id, "READY")
    if run_id is not None:
        store.client.log_metric(run_id, METRIC, candidate.bits_per_byte, model_id=model.model_id, synchronous=True)
    version = store.client.create_model_version(name, source, run_id=run_id, tags=tags, model_id=model.model_id)
    return version.version
