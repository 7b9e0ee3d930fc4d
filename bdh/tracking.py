"""MLflow, and nothing else imports it. Files are the truth; tracking mirrors them and never stops a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Tracker:
    """One MLflow run that is being written; every method may be called when MLflow is unreachable."""

    run_id: str | None = None

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, non-finite ones left out."""

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record curves: each row has `step` and any number of metrics; steps already recorded are skipped."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record an input dataset; `digest` at most 36 characters."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Copy a file into the run's artifacts."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags."""


@contextmanager
def tracked(
    stage: str, key: str, *, params: Mapping[str, Any], tags: Mapping[str, str], resume_folder: Path | None = None
) -> Iterator[Tracker]:
    """One run of a stage. `train` runs stand alone; other stages are children of the train run of the same key.

    On success writes `reports/run/<stage>/<key>.json` with run_id and experiment_id (None when tracking failed).
    `resume_folder` keeps the run id of an unfinished run so that a resumed stage goes on in the same run.
    """
    yield Tracker()
