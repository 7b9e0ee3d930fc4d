"""Everything the report reads, listed from the parameters and never by looking at what lies in a folder.

Results as flat tables of named values: nested or not, absent or there, a wrong type is a damaged file.

Texts that a run wrote, as pairs of prompt and continuation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bdh.params import Params
from bdh.project import files
from bdh.project.errors import RunError
from bdh.project.files import read_json


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`value` with the keys of nested mappings joined by `/`; lists stay as they are, an empty mapping vanishes."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{name}/")
        else:
            flat[name] = item
    return flat


@dataclass(frozen=True)
class Record:
    """One JSON file of results, flattened; without values when the file is absent."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether the file was there."""
        return bool(self.values)

    def number(self, key: str) -> float | None:
        """The number under `key`, None when it is absent or null.

        Raises RunError when something else than a finite number stands there.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RunError(f"{self.path} is damaged ({key} is {value!r}, not a number); delete it and run `dvc repro`")
        return float(value)

    def text(self, key: str) -> str | None:
        """The value under `key` as text, None when it is absent or null."""
        value = self.values.get(key)
        return None if value is None else str(value)

    def children(self, prefix: str) -> list[str]:
        """Names that stand directly below `prefix`, in the order of the file, each once."""
        start = f"{prefix}/"
        below = (key[len(start) :].split("/")[0] for key in self.values if key.startswith(start))
        return list(dict.fromkeys(below))


def read_record(path: Path) -> Record:
    """Read one JSON file of results; an absent file gives a Record without values.

    Raises RunError when the file is damaged or holds no mapping.
    """
    if not path.exists():
        return Record(path)
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise RunError(f"{path} is damaged (it holds no mapping of names to values); delete it and run `dvc repro`")
    return Record(path, flatten(value))


def read_samples(path: Path) -> tuple[tuple[str, str], ...]:
    """Pairs (prompt, text) of one samples.json, none when it is absent; RunError when it is damaged.

    Read are a list of texts, a list of {prompt, text}, and either of them inside a mapping (by prompt or by name).
    """
    if not path.exists():
        return ()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    return tuple(_pairs(value))


def _pairs(value: Any, prompt: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(prompt, value)]
    if isinstance(value, list):
        return [pair for item in value for pair in _pairs(item, prompt)]
    if not isinstance(value, Mapping):
        return []
    if isinstance(value.get("text"), str):
        return [(str(value.get("prompt", prompt)), value["text"])]
    return [pair for name, item in value.items() for pair in _pairs(item, str(name))]


SCALING = Path("benchmarks/results/h200_scaling.json")
"""Results of `benchmarks.scaling` that belong to the project."""

STAGE_FILES = {
    "train": "reports/train/{key}.json",
    "timing": "reports/timing/{key}.json",
    "hebbian": "reports/hebbian/{key}.json",
    "frontier": "reports/frontier/{key}.json",
}


@dataclass(frozen=True)
class Run:
    """Results of one training (variant, corpus, seed) and of its evaluations.

    history, curves: None when their files are absent. units: one row per arm and unit of held-out text (document or
    block), or None. weight_changes: histograms per map of plastic synapses, empty without. missing: one reason per
    absent result, in the order of the pipeline.
    """

    variant: str
    corpus: str
    seed: int
    train: Record
    timing: Record
    hebbian: Record
    frontier: Record
    history: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    samples: tuple[tuple[str, str], ...] = ()
    weight_changes: Record = field(default_factory=lambda: Record(Path("weight_changes.json")))
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the run: `variant-corpus-seed`."""
        return files.run_key(self.variant, self.corpus, self.seed)


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of one corpus: statistics of its tokens, with the provenance of its files among them."""

    name: str
    stats: Record
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """All results that one comparison is made of, in the order of params.yaml."""

    scale: str
    variants: tuple[str, ...]
    corpora: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    facts: dict[str, CorpusFacts] = field(default_factory=dict)
    scaling: Record = field(default_factory=lambda: Record(SCALING))

    def of(self, corpus: str, variant: str | None = None) -> list[Run]:
        """Runs on one corpus, of one variant or of all."""
        return [run for run in self.runs if run.corpus == corpus and variant in (None, run.variant)]


def load_inputs(params: Params) -> Inputs:
    """Read the results of every run that params.yaml names; absent ones are noted, damaged ones raise RunError."""
    return Inputs(
        scale=params.scale,
        variants=tuple(params.variants),
        corpora=tuple(params.corpora),
        seeds=tuple(params.seeds),
        runs=tuple(load_run(*key) for key in params.runs()),
        facts={name: load_facts(name) for name in params.corpora},
        scaling=read_record(SCALING),
    )


def load_run(variant: str, corpus: str, seed: int) -> Run:
    """Read every result of one run."""
    key = files.run_key(variant, corpus, seed)
    records = {stage: read_record(Path(pattern.format(key=key))) for stage, pattern in STAGE_FILES.items()}
    for stage in ("train", "hebbian", "frontier"):
        _check_owner(records[stage], key)
    missing = [
        f"{record.path} is missing (stage {'train' if stage == 'timing' else stage})"
        for stage, record in records.items()
        if not record
    ]
    history = _read_table(files.REPORTS / "history" / f"{key}.csv", ("step",))
    curves = _read_table(files.REPORTS / "curves" / f"{key}.csv", ("metric", "x", "y", "series"))
    if history is None:
        missing.append(f"reports/history/{key}.csv is missing (stage train)")
    if curves is None:
        missing.append(f"reports/curves/{key}.csv is missing (stage frontier)")
    return Run(
        variant=variant,
        corpus=corpus,
        seed=seed,
        **records,
        history=history,
        curves=curves,
        units=_read_units(files.HEBBIAN / key / "units.parquet"),
        samples=read_samples(files.RUNS / key / "samples.json"),
        weight_changes=read_record(files.RUNS / key / "weight_changes.json"),
        missing=tuple(missing),
    )


def load_facts(corpus: str) -> CorpusFacts:
    """Read the statistics of one corpus."""
    stats = read_record(files.TOKENS / corpus / "stats.json")
    return CorpusFacts(corpus, stats, () if stats else (f"{stats.path} is missing (stage tokenize)",))


def _check_owner(record: Record, key: str) -> None:
    named = [record.text(part) for part in ("variant", "corpus", "seed")]
    if None not in named and "-".join(str(part) for part in named) != key:
        raise RunError(f"{record.path} describes the run {'-'.join(map(str, named))}; delete it and run `dvc repro`")


def _read_table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame | None:
    """A CSV file with the columns `needed`, None when it is absent or has no rows; RunError when damaged."""
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    absent = [name for name in needed if name not in table.columns]
    if absent:
        raise RunError(f"{path} is damaged (no column {absent[0]}); delete it and run `dvc repro`")
    words = [name for name in table.columns if table[name].dtype == object or str(table[name].dtype) == "str"]
    odd = [name for name in words if name not in ("metric", "series") and table[name].notna().any()]
    if odd:
        raise RunError(f"{path} is damaged (column {odd[0]} holds text); delete it and run `dvc repro`")
    return table if len(table) else None


def _read_units(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    absent = sorted({"arm", "kind", "id", "nats", "bytes"} - set(table.columns))
    if absent:
        raise RunError(f"{path} is damaged (no column {absent[0]}); delete it and run `dvc repro`")
    return table
