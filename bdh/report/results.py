"""Everything of every run in one flat table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from bdh.files import replacing
from bdh.report.against_bdh import Standing, standings
from bdh.report.inputs import Inputs, Run

STAGES = ("train", "timing", "hebbian", "frontier")
OWN = {"variant", "corpus", "seed"}
OF_STRATA = {"bits_per_byte", "bits_low", "bits_high", "difference_to_static", "ci_low", "ci_high", "documents"}


def result_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """One row per run: key, variant, corpus, seed, what is missing, `over_seeds/...`, then `stage/...` for its values.

    `over_seeds` is the same in every row of a variant on a corpus: n, mean, 95 % interval (empty for one seed) and the
    paired difference to bdh. Of strata their bits per byte, differences, intervals and documents are here; the rest of
    them, and lists, are in the files of the stage.
    """
    beside = {corpus: standings(inputs, corpus) for corpus in inputs.corpora}
    return [_row(run, beside[run.corpus].get(run.variant)) for run in inputs.runs]


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV in one step; columns in the order in which they first appear, absent values empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(run: Run, standing: Standing | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": run.key,
        "variant": run.variant,
        "corpus": run.corpus,
        "seed": run.seed,
        "missing": "; ".join(run.missing),
    }
    row |= _over_seeds(standing) if standing is not None else {}
    for stage in STAGES:
        for name, value in getattr(run, stage).values.items():
            if name not in OWN and not isinstance(value, list) and not _minor(name):
                row[f"{stage}/{name}"] = value
    return row


def _minor(name: str) -> bool:
    """Whether this is a number of a stratum that the table leaves out."""
    return "/by_" in name and name.rpartition("/")[2] not in OF_STRATA


def _over_seeds(standing: Standing) -> dict[str, Any]:
    bits, gap = standing.bits, standing.gap
    found: dict[str, Any] = {"n": bits.n, "test_bits_per_byte_mean": bits.mean}
    if bits.half is not None:
        found |= {"low": bits.mean - bits.half, "high": bits.mean + bits.half}
    if gap is not None and gap.low is not None:
        found |= {"minus_bdh": gap.value, "minus_bdh_low": gap.low, "minus_bdh_high": gap.high, "minus_bdh_p": gap.p}
        found |= {"minus_bdh_p_adjusted": standing.adjusted, "minus_bdh_over": gap.over}
    return {f"over_seeds/{name}": value for name, value in found.items()}
