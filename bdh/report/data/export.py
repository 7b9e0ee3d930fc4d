"""What git keeps of a comparison's results: copies of their files, the few numbers of `dvc metrics`, the plots' rows.

Results themselves lie in `data/results`, where DVC keeps and shares them; nothing in the pipeline reads these copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bdh.project import files
from bdh.project.files import exported, replacing, write_csv, write_json
from bdh.report.data import measures
from bdh.report.data.inputs import FLOORS, RESULTS, Inputs, RunResults
from bdh.report.data.measures import Measure

BESIDE = tuple(
    f"{kind}/{stage}/{{key}}.json" for kind in ("origin", "run") for stage in ("train", "hebbian", "frontier")
)
"""What belongs to a run beside its results: what they were made from, and its runs in MLflow."""

METRICS, PLOTS = files.REPORTS / "metrics", files.REPORTS / "plots"
SHOWN: dict[str, Measure] = {
    "bits_per_byte": measures.test_bits,
    "nats_per_token": measures.number_of("hebbian", "arms/static/nats_per_token"),
    "carry_change": measures.number_of("hebbian", "arms/carry/difference_to_static"),
    "parameters": measures.parameters,
    "tokens_per_s": measures.number_of("timing", "tokens_per_s"),
}
"""What `dvc metrics show` says of a run, fit for a terminal; carry_change: bits per byte, carry minus static."""

LEARNING = ("step", "validation_nats")
JUDGED = ("run", "variant", "corpus", "seed", "bits_per_byte", "parameters")


def export(inputs: Inputs) -> None:
    """Write what git keeps of the results of a comparison, and remove what it keeps of runs that are gone."""
    wanted = [files.RESULTS / FLOORS.format(corpus=corpus) for corpus in inputs.corpora]
    for run in inputs.runs:
        wanted += [files.RESULTS / pattern.format(key=run.key) for pattern in RESULTS.values()]
        wanted += [files.RESULTS / pattern.format(key=run.key) for pattern in BESIDE]
    written = [_copy(path) for path in wanted if path.exists()]
    for run in inputs.runs:
        numbers = {name: value for name, measure in SHOWN.items() if (value := measure(run)) is not None}
        write_json(METRICS / f"{run.key}.json", numbers)
        written.append(METRICS / f"{run.key}.json")
    _remove_others(written)
    write_csv(PLOTS / "learning.csv", ("run", *LEARNING), _learning(inputs.runs))
    write_csv(PLOTS / "runs.csv", JUDGED, _judged(inputs.runs))


def _copy(source: Path) -> Path:
    target = exported(source)
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())
    return target


def _remove_others(kept: Sequence[Path]) -> None:
    """Remove what else lies in the folders of `kept`."""
    for folder in {path.parent for path in kept}:
        for path in {*folder.iterdir()} - {*kept}:
            path.unlink()


def _learning(runs: Sequence[RunResults]) -> Iterable[dict[str, Any]]:
    for run in runs:
        if {*LEARNING} <= {*run.history.columns}:
            for step, nats in run.history[[*LEARNING]].dropna().itertuples(index=False):
                yield {"run": run.key, "step": int(step), "validation_nats": float(nats)}


def _judged(runs: Sequence[RunResults]) -> Iterable[dict[str, Any]]:
    for run in runs:
        if (bits := measures.test_bits(run)) is not None:
            values = (run.key, run.variant, run.corpus, run.seed, bits, measures.parameters(run))
            yield dict(zip(JUDGED, values, strict=True))
