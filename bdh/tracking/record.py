"""One run in a store: what it holds already is never written twice, and everything goes in batches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdh.tracking.mirror import is_number
from bdh.tracking.store import Store

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
NAME_LENGTH = 250


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts."""
    return int(time.time() * 1000)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and texts that MLflow accepts."""
    found: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[plain_name(path)] = text[:PARAM_LENGTH]
    return found


def plain_name(name: str) -> str:
    """A name that MLflow accepts for a metric, parameter or tag: no `..`, no sign outside letters, digits, `_-./: `."""
    kept = "".join(sign if sign.isalnum() or sign in "_-./: " else "_" for sign in str(name))
    parts = [part for part in kept.split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else part for part in parts)[:NAME_LENGTH] or "_"


def plain_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags with accepted names and lengths."""
    return {plain_name(name): str(value)[:TAG_LENGTH] for name, value in tags.items()}


def _next_step(known: Mapping[int, float], value: float) -> int | None:
    if not known:
        return 0
    last = max(known)
    return None if known[last] == value else last + 1


class Record:
    """Buffers metrics of one run and knows which (metric, step) pairs the store has."""

    def __init__(self, store: Store, run_id: str, *, fresh: bool = False) -> None:
        """Write to the run `run_id`; a `fresh` one holds nothing yet."""
        self.store = store
        self.run_id = run_id
        self._fresh = fresh
        self._points: dict[str, dict[int, float]] = {}
        self._waiting: dict[tuple[str, int], Any] = {}

    def reload(self) -> None:
        """Ask the store anew what it holds: after an outage nobody knows whether the last batch arrived."""
        self._fresh = False
        self._points = {}
        waiting, self._waiting = self._waiting, {}
        for (name, step), metric in waiting.items():
            if step not in self._known(name):
                self._points[name][step] = metric.value
                self._waiting[name, step] = metric

    def _known(self, name: str) -> dict[int, float]:
        """Values by step of one metric, stored or buffered."""
        if name not in self._points:
            points = [] if self._fresh else self.store.client.get_metric_history(self.run_id, name)
            self._points[name] = {point.step: point.value for point in points}
        return self._points[name]

    def add(self, values: Mapping[str, float], step: int | None, at_ms: int) -> None:
        """Buffer metrics; pairs of name and step that are known are left out.

        Without a step a value becomes the metric's next point, unless it is equal to the last one.
        """
        from mlflow.entities import Metric

        for given, value in values.items():
            if not is_number(value):
                continue
            name = plain_name(given)
            known = self._known(name)
            at = _next_step(known, value) if step is None else step
            if at is not None and at not in known:
                known[at] = value
                self._waiting[name, at] = Metric(name, float(value), at_ms, at)

    def sample(self, values: Mapping[str, float], at_ms: int) -> None:
        """Buffer system metrics, all at the step after the last of each; unlike `add`, a value may repeat."""
        for name, value in values.items():
            self.add({name: value}, max(self._known(name), default=-1) + 1, at_ms)

    def waiting(self) -> int:
        """How many metrics are buffered."""
        return len(self._waiting)

    def flush(self) -> None:
        """Send what is buffered; what was not sent stays buffered when the store fails."""
        while self._waiting:
            batch = list(self._waiting.items())[:METRICS_PER_CALL]
            self.store.client.log_batch(self.run_id, metrics=[metric for _, metric in batch], synchronous=True)
            for pair, _ in batch:
                del self._waiting[pair]

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        pairs = [RunTag(name, value) for name, value in plain_tags(tags).items()]
        for start in range(0, len(pairs), PARAMS_PER_CALL):
            self.store.client.log_batch(self.run_id, tags=pairs[start : start + PARAMS_PER_CALL], synchronous=True)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Set parameters that the run does not have yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        known = self.store.client.get_run(self.run_id).data.params
        pairs = [Param(name, value) for name, value in flat(params).items() if name not in known]
        for start in range(0, len(pairs), PARAMS_PER_CALL):
            self.store.client.log_batch(self.run_id, params=pairs[start : start + PARAMS_PER_CALL], synchronous=True)

    def add_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Note an input dataset by its digest; `source` is an address or a path."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        remote = source.startswith(("http://", "https://"))
        kind, where = ("http", {"url": source}) if remote else ("local", {"uri": source})
        dataset = Dataset(name[:500], digest[:36], kind, json.dumps(where))
        given = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self.store.client.log_inputs(self.run_id, [given])

    def add_file(self, path: Path, folder: str = "") -> None:
        """Copy a file into the artifacts."""
        self.store.client.log_artifact(self.run_id, str(path), folder or None)

    def end(self, status: str, at_ms: int | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self.store.client.set_terminated(self.run_id, status, at_ms)
