"""Everything the report reads, listed from the parameters and never by looking at what lies in a folder.

A result file is read in the one shape in which its stage writes it. A file of another shape is damaged and a file that
is not there is missing: both are errors that name it. Only a training that diverged has fewer files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bdh.params import Params
from bdh.params.trials import Search, searches
from bdh.project import files
from bdh.project.errors import RunError
from bdh.project.files import read_json

SCALING = Path("benchmarks/results/h200_scaling.json")
"""Results of `benchmarks.scaling` that belong to the project."""

RESULTS = {
    "train": "train/{key}.json",
    "timing": "timing/{key}.json",
    "history": "history/{key}.csv",
    "hebbian": "hebbian/{key}.json",
    "frontier": "frontier/{key}.json",
    "curves": "curves/{key}.csv",
}
"""The results of one run: of the project in `files.RESULTS`, of a study in `files.REPORTS` below its home."""

PARTS = {"samples": "data/runs/{key}/samples.json", "units": "data/hebbian/{key}/units.parquet"}
"""What is read of the other outputs of a run."""

FLOORS = "floors/{corpus}.json"
"""What counting reaches on one corpus, among the results."""

OF_A_MODEL = ("samples", "units")
"""Those that a training that diverged does not have: there is no model to write or to read texts."""

OWNED = ("train", "hebbian", "frontier")
"""Those that name the run that they are about."""

HERE = Path()

NAMED = 3


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


def damaged(path: Path, what: object) -> RunError:
    """The error for a file that is not in the shape in which its stage writes it."""
    return RunError(f"{path} is damaged ({what}); delete it and run `dvc repro`")


@dataclass(frozen=True)
class Values:
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
            raise damaged(self.path, f"{key} is {value!r}, not a number")
        return float(value)

    def text(self, key: str) -> str | None:
        """The value under `key` as text, None when it is absent or null."""
        value = self.values.get(key)
        return None if value is None else str(value)

    def rows(self, key: str, *needed: str) -> list[dict[str, Any]]:
        """The rows under `key`, each flattened, none when it is absent or null.

        Raises RunError when it is no list of mappings that have all the `needed` names.
        """
        found = self.values.get(key)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(row, dict) and row.keys() >= {*needed} for row in found):
            raise damaged(self.path, f"{key} is no list of rows" + (f" with {', '.join(needed)}" if needed else ""))
        return [flatten(row) for row in found]

    def children(self, prefix: str) -> list[str]:
        """Names that stand directly below `prefix`, in the order of the file, each once."""
        start = f"{prefix}/"
        below = (key[len(start) :].split("/")[0] for key in self.values if key.startswith(start))
        return list(dict.fromkeys(below))


def read_values(path: Path) -> Values:
    """Read one JSON file of results; an absent file gives Values without any.

    Raises RunError when the file is damaged or holds no mapping.
    """
    if not path.exists():
        return Values(path)
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise damaged(path, "it holds no mapping of names to values")
    return Values(path, flatten(value))


def read_samples(path: Path) -> tuple[tuple[str, str], ...]:
    """Pairs (prompt, text) of one samples.json, a list of `{"prompt", "text"}`; RunError when it is damaged."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("prompt", "text")) for row in rows
    ):
        raise damaged(path, "it is no list of texts with their prompts")
    return tuple((row["prompt"], row["text"]) for row in rows)


@dataclass(frozen=True)
class RunResults:
    """Results of one training (variant, corpus, seed) and of its evaluations.

    units: one row per arm and unit of held-out text (document or block), None where training diverged.
    weight_changes: histograms per map of plastic synapses, empty without.
    """

    variant: str
    corpus: str
    seed: int
    train: Values
    timing: Values
    hebbian: Values
    frontier: Values
    history: pd.DataFrame
    curves: pd.DataFrame
    units: pd.DataFrame | None = None
    samples: tuple[tuple[str, str], ...] = ()
    weight_changes: Values = field(default_factory=lambda: Values(Path("weight_changes.json")))

    @property
    def key(self) -> str:
        """Name of the run: `variant-corpus-seed`."""
        return files.run_key(self.variant, self.corpus, self.seed)

    @property
    def divergence(self) -> str:
        """`diverged at step 40: why` when training diverged, so that there are no numbers; else empty."""
        return _divergence(self.train)


def divergences(runs: Sequence[RunResults]) -> str:
    """What is said of those runs whose training diverged, empty when none did."""
    return "; ".join(run.divergence for run in runs if run.divergence)


def _divergence(train: Values) -> str:
    step = train.number("diverged/step")
    return "" if step is None else f"diverged at step {step:.0f}: {train.text('diverged/reason')}"


@dataclass(frozen=True)
class Ablation:
    """What a variant is for: to lack one mechanism of another variant (`without`), or to have no other (`only`)."""

    base: str
    kind: Literal["without", "only"]
    mechanism: str


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of one corpus: statistics of its tokens, with the provenance of its files among them, and what
    n-gram models reach on its held-out text (`floors`)."""

    name: str
    stats: Values
    floors: Values


@dataclass(frozen=True, eq=False)
class Inputs:
    """All results that one comparison is made of, in the order of params.yaml.

    families: what the claims count every variant to. ablations: of those variants that are one. settings: of every
    variant and corpus, by dotted name (`train.l21`, `model.hebbian_lr`). smallest_effect: smallest difference of
    interest, bits per byte. window: tokens that stage hebbian reads at once. recipe: where settings come from
    (`reference`, or `tuned`: chosen by the search). searches: what the search gave at this scale, by (variant, corpus).
    absent: runs of a study without a result, or without a part of it, each with the reason; a comparison made by the
    pipeline lacks none.
    """

    scale: str
    variants: tuple[str, ...]
    corpora: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[RunResults, ...]
    facts: dict[str, CorpusFacts] = field(default_factory=dict)
    scaling: Values = field(default_factory=lambda: Values(SCALING))
    families: dict[str, str] = field(default_factory=dict)
    ablations: dict[str, Ablation] = field(default_factory=dict)
    settings: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    smallest_effect: float = 0.01
    window: int = 128
    recipe: str = "reference"
    searches: dict[tuple[str, str], Search] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def of(self, corpus: str, variant: str | None = None) -> list[RunResults]:
        """Runs on one corpus, of one variant or of all."""
        return [run for run in self.runs if run.corpus == corpus and variant in (None, run.variant)]

    @property
    def one_seed(self) -> bool:
        """Whether the comparison has a single seed, so that nothing is judged."""
        return len(self.seeds) == 1

    def family(self, *names: str) -> list[str]:
        """The variants that belong to one of the families."""
        return [variant for variant in self.variants if self.families[variant] in names]

    def measured(self, *families: str) -> list[RunResults]:
        """Runs of the variants of some families, without those whose training diverged."""
        variants = self.family(*families)
        return [run for run in self.runs if run.variant in variants and not run.divergence]


def load_inputs(params: Params) -> Inputs:
    """Read what the comparison that `params` names is made of; RunError when a file is missing or damaged."""
    missing = missing_files(params)
    if missing:
        named = ", ".join(path.as_posix() for path in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise RunError(f"results are missing: {named}{more}; run `dvc repro`, which makes them")
    return inputs_of(params, [load_run(*key) for key in params.runs()])


def inputs_of(params: Params, runs: Sequence[RunResults], root: Path = HERE, absent: Sequence[str] = ()) -> Inputs:
    """The comparison of some runs of what `params` names; the facts of its corpora lie below `root`."""
    return Inputs(
        scale=params.scale,
        variants=tuple(params.variants),
        corpora=tuple(params.corpora),
        seeds=tuple(params.seeds),
        runs=tuple(runs),
        facts={name: load_facts(name, root) for name in params.corpora},
        scaling=read_values(SCALING),
        families={variant: params.family_of(variant) for variant in params.variants},
        ablations={v: ablation for v in params.variants if (ablation := _ablation(params, v)) is not None},
        settings={(v, c): _settings(params, v, c) for v in params.variants for c in params.corpora},
        smallest_effect=params.report.smallest_effect,
        window=params.hebbian_scale().window,
        recipe=params.recipe,
        searches=searches(params.scale),
        absent=tuple(absent),
    )


def load_facts(corpus: str, root: Path = HERE) -> CorpusFacts:
    """What is known of one corpus whose files lie below `root`; RunError when they are another's."""
    return CorpusFacts(corpus, read_values(_stats(corpus, root)), _read_floors(corpus, root))


def _settings(params: Params, variant: str, corpus: str) -> dict[str, Any]:
    train = params.train_of(variant, corpus).model_dump()
    model = params.model_of(variant, corpus)
    own = {f"train.{name}": value for name, value in train.items()}
    own |= {f"model.{name}": value for name, value in model.items()}
    return own | {"architecture": params.architecture_of(variant)}


def _ablation(params: Params, variant: str) -> Ablation | None:
    found = params.ablation_of(variant)
    return None if found is None else Ablation([*params.sections_of(variant), ""][1], *found)


def missing_files(params: Params) -> list[Path]:
    """Files of the comparison that are not there, those of the corpora first."""
    needed = [place(corpus, HERE) for corpus in params.corpora for place in (_stats, _floors)]
    for variant, corpus, seed in params.runs():
        paths = _paths(files.run_key(variant, corpus, seed), HERE)
        ended_early = bool(_divergence(read_values(paths["train"])))
        needed += [path for name, path in paths.items() if not (ended_early and name in OF_A_MODEL)]
    return [path for path in needed if not path.exists()]


def load_run(variant: str, corpus: str, seed: int, root: Path = HERE, stages: Sequence[str] = OWNED) -> RunResults:
    """Read the results of one run below `root`, of `stages` alone; their files are there (`missing_files`).

    A study keeps texts and units of text for some runs only: without a file of them the run has none.
    """
    key = files.run_key(variant, corpus, seed)
    paths = _paths(key, root)
    read = [stage for stage in ("train", "timing", "hebbian", "frontier") if (stage in stages or stage == "timing")]
    reports = {stage: Values(paths[stage]) for stage in OWNED} | {stage: read_values(paths[stage]) for stage in read}
    for stage in stages:
        _check_owner(reports[stage], key)
    ended_early = bool(_divergence(reports["train"]))
    has = {name: not ended_early and (root == HERE or paths[name].exists()) for name in OF_A_MODEL}
    return RunResults(
        variant=variant,
        corpus=corpus,
        seed=seed,
        **reports,
        history=_read_table(paths["history"], ("step",)),
        curves=_read_table(paths["curves"], CURVE) if "frontier" in stages else pd.DataFrame(columns=CURVE),
        units=_read_units(paths["units"]) if has["units"] and "hebbian" in stages else None,
        samples=read_samples(paths["samples"]) if has["samples"] else (),
        weight_changes=read_values(root / files.RUNS / key / "weight_changes.json"),
    )


CURVE = ("metric", "x", "y", "series")


def _paths(key: str, root: Path) -> dict[str, Path]:
    results = {name: _results(root) / pattern.format(key=key) for name, pattern in RESULTS.items()}
    return results | {name: root / pattern.format(key=key) for name, pattern in PARTS.items()}


def _results(root: Path) -> Path:
    """Where results lie below `root`: here as the stages made them, in a study as git keeps them."""
    return files.RESULTS if root == HERE else root / files.REPORTS


def _stats(corpus: str, root: Path) -> Path:
    return root / files.TOKENS / corpus / "stats.json"


def _floors(corpus: str, root: Path) -> Path:
    return _results(root) / FLOORS.format(corpus=corpus)


def _read_floors(corpus: str, root: Path) -> Values:
    """The n-gram models of one corpus; RunError when they are another's."""
    values = read_values(_floors(corpus, root))
    if values.text("corpus") != corpus:
        raise RunError(f"{values.path} is about {values.text('corpus')}, not {corpus}; delete it and run `dvc repro`")
    return values


def _check_owner(values: Values, key: str) -> None:
    named = "-".join(str(values.text(part)) for part in ("variant", "corpus", "seed"))
    if named != key:
        raise RunError(f"{values.path} describes the run {named}, not {key}; delete it and run `dvc repro`")


def _read_table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """A CSV file with the columns `needed`; RunError when damaged."""
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None
    _check_columns(path, table, needed)
    words = [name for name in table.columns if table[name].dtype == object or str(table[name].dtype) == "str"]
    odd = [name for name in words if name not in ("metric", "series") and table[name].notna().any()]
    if odd:
        raise damaged(path, f"column {odd[0]} holds text")
    return table


def _read_units(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    _check_columns(path, table, ("arm", "kind", "id", "nats", "bytes"))
    return table


def _check_columns(path: Path, table: pd.DataFrame, needed: tuple[str, ...]) -> None:
    absent = [name for name in needed if name not in table.columns]
    if absent:
        raise damaged(path, f"no column {absent[0]}")
