"""How often the frontier metrics are wrong: false positives on nulls, power on planted structure, old protocol beside.

python -m benchmarks.calibration                writes docs/calibration.json and its tables in docs/metrics.md
python -m benchmarks.calibration --tables       writes the tables alone, from docs/calibration.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from bdh.frontier import persistence, tmi
from bdh.frontier.communities import best_partition, undirected_as_reference
from bdh.frontier.graph import Factors, largest_entries
from bdh.frontier.persistence import reference_protocol
from bdh.frontier.sps import block_order
from bdh.frontier.survey import Updates
from bdh.hebbian.coactivation import Coactivation
from benchmarks.controls import CONTROLS, fires, settings

JSON = Path("docs/calibration.json")
PAGE = Path("docs/metrics.md")
LEVEL = 0.05
SHARES = (0.0005, 0.002, 0.01, 0.023, 0.05)
DAMPINGS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)


def most(n: int, level: float = LEVEL) -> float:
    """The largest rate of false positives in n repetitions that a test of this level stays below but for 1 in 1000."""
    return float(stats.binom.ppf(0.999, n, level)) / n


def rates(repetitions: int) -> list[dict[str, object]]:
    """One row per control: how often its metric fired in `repetitions` seeds."""
    rows = []
    for control in CONTROLS:
        hits = sum(fires(control, seed) for seed in range(repetitions))
        metric, kind, name = control
        rows.append({"metric": metric, "control": kind, "name": name, "n": repetitions, "rate": hits / repetitions})
        print(rows[-1], flush=True)
    return rows


def modularity_of_noise() -> list[dict[str, object]]:
    """Products of Gaussian factors, 2048 neurons of width 128, over the share of entries kept."""
    empty = Factors(np.zeros((2048, 128), np.float32), np.zeros((128, 2048), np.float32))
    graph, other = (empty.gaussian(np.random.default_rng(seed)) for seed in (0, 1))
    rows = []
    for share in SHARES:
        edges = largest_entries(graph, round(share * 2048**2), "magnitude", loops=True)
        theirs = best_partition(undirected_as_reference(edges), 1, 0, "louvain").modularity
        settings_of = settings(top_share=share, restarts=2)
        ours = [tmi.quality(one, settings_of) for one in (graph, other)]
        rows.append({"metric": "tmi", "setting": f"noise, {100 * share:g} % of the entries",
                     "reference_protocol": theirs, "ours": ours[0] - ours[1],
                     "ours_means": "Q less Q of other noise"})  # fmt: skip
    return rows


def persistence_of_noise() -> list[dict[str, object]]:
    """200 snapshots of the state of rectified noise without memory, and our exponent of the same noise."""
    codes = np.maximum(np.random.default_rng(0).normal(size=(2048, 1, 1, 128)), 0)
    rows = []
    for damping in DAMPINGS:
        state = Coactivation(codes[:200], 100 * np.arange(1, 201), np.zeros(200, dtype=int), damping, 0.005, 100)
        weights = np.random.default_rng(1).normal(size=(2, 128, 8))
        updates = Updates(((codes[:, 0, 0] @ weights[0]) * (codes[:, 0, 0] @ weights[1])).T)
        order = block_order(2048, np.random.default_rng(2))
        ours = persistence.hurst(updates.projections)[0] - persistence.hurst(updates.projections[:, order])[0]
        rows.append({"metric": "sps", "setting": f"noise, damping {damping:g}",
                     "reference_protocol": reference_protocol(state)["hurst"], "ours": ours,
                     "ours_means": "H less H of the noise in random order"})  # fmt: skip
    return rows


def tables(found: dict) -> dict[str, str]:
    """The tables of docs/metrics.md by the name of their markers."""
    lines = ["| metric | control | | repetitions | rate |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        kind = "false positives" if row["control"] == "null" else "power"
        lines.append(f"| {row['metric']} | {row['name']} | {kind} | {row['n']} | {row['rate']:.3f} |")
    limit = max(most(row["n"]) for row in found["rows"])
    lines += [
        "",
        f"At level {LEVEL}, false positives above {limit:.3f} would say that a metric breaks its level (1 in 1000).",
    ]
    old = ["| metric | without any structure | reference protocol | ours | what ours is |", "|---|---|---|---|---|"]
    for row in found["artefacts"]:
        names = (row["metric"], row["setting"], f"{row['reference_protocol']:.3f}", f"{row['ours']:+.3f}")
        old.append(f"| {' | '.join(names)} | {row['ours_means']} |")
    return {"calibration": "\n".join(lines), "artefacts": "\n".join(old)}


def with_tables(page: str, found: dict) -> str:
    """The page with every table between its markers replaced."""
    for name, table in tables(found).items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = page.split(start)
        page = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--tables", action="store_true", help="write the tables alone")
    arguments = parser.parse_args()
    if not arguments.tables:
        found = {
            "command": f"python -m benchmarks.calibration --repetitions {arguments.repetitions}",
            "level": LEVEL,
            "rows": rates(arguments.repetitions),
            "artefacts": modularity_of_noise() + persistence_of_noise(),
        }
        JSON.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    found = json.loads(JSON.read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
