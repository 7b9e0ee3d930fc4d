"""How often the frontier metrics are wrong: false positives on nulls, power on planted structure, old protocol beside.

python -m benchmarks.calibration --prepare      trains and measures the networks that some controls read (once)
python -m benchmarks.calibration --jobs 16      writes docs/calibration.json and its tables in docs/metrics.md
python -m benchmarks.calibration --tables       writes the tables alone, from docs/calibration.json

Results are kept in data/calibration/rows, one file per control: a run that was cut off goes on where it stopped, and
`--again` forgets them. `--only sec` takes controls whose name holds these words.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from bdh.frontier import memory, tmi
from bdh.frontier.communities import best_partition, undirected_as_reference
from bdh.frontier.graph import Factors, largest_entries
from bdh.frontier.persistence import reference_protocol
from bdh.frontier.sps import block_order
from bdh.frontier.survey import Updates
from bdh.hebbian.coactivation import Coactivation
from benchmarks.control_graphs import settings
from benchmarks.control_nets import prepare, prepared
from benchmarks.controls import NULL, all_controls

JSON = Path("docs/calibration.json")
PAGE = Path("docs/metrics.md")
ROWS = Path("data/calibration/rows")
LEVEL = 0.05
POWER = 0.8
CHUNK = 10
SHARES = (0.0005, 0.002, 0.01, 0.023, 0.05)
DAMPINGS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)
Key = tuple[str, str, str]


def standard_error(rate: float, n: int) -> float:
    """Of a rate in n repetitions."""
    return math.sqrt(rate * (1 - rate) / n)


def most(n: int, level: float = LEVEL) -> float:
    """The largest rate of false positives in n repetitions that is no more than two standard errors above the level."""
    return level + 2 * standard_error(level, n)


def rates(repetitions: int | None, jobs: int, only: str, again: bool) -> None:
    """Run every control in `jobs` processes, and write its row as soon as it has all its repetitions."""
    ROWS.mkdir(parents=True, exist_ok=True)
    pending: dict[Key, list[str]] = {}
    work = []
    for key, control in all_controls().items():
        count = control.repetitions if repetitions is None else min(repetitions, control.repetitions)
        found = [] if again else verdicts(key)
        if control.nets and not prepared():
            print(f"{' | '.join(key)}: left out, needs --prepare", flush=True)
        elif only in " ".join(key) and len(found) < count:
            pending[key] = found
            work += [(key, list(range(at, min(at + CHUNK, count)))) for at in range(len(found), count, CHUNK)]
    seconds: Counter[Key] = Counter()
    with ProcessPoolExecutor(jobs) as pool:
        parts: dict[Key, dict[int, list[str]]] = {key: {} for key in pending}
        running = {pool.submit(repeat, key, seeds): (key, seeds) for key, seeds in work}
        for future in as_completed(running):
            key, seeds = running[future]
            parts[key][seeds[0]], spent = future.result()
            seconds[key] += spent
            while len(pending[key]) in parts[key]:
                pending[key] += parts[key].pop(len(pending[key]))
                keep(key, pending[key], seconds[key])
            if not parts[key]:
                print(f"{' | '.join(key)}: {len(pending[key])}, {seconds[key]:.0f} CPU s", flush=True)


def repeat(key: Key, seeds: list[int]) -> tuple[list[str], float]:
    """The verdicts of a control and the seconds of processor time that they took."""
    torch.set_num_threads(1)
    start = time.process_time()
    return [all_controls()[key].outcome(seed) for seed in seeds], time.process_time() - start


def path_of(key: Key) -> Path:
    """Where the verdicts of a control are kept."""
    name = "-".join(key)
    return ROWS / f"{''.join(letter if letter.isalnum() else '_' for letter in name)}.json"


def keep(key: Key, found: list[str], seconds: float) -> None:
    """Write the verdicts of the first seeds, in one step."""
    path = path_of(key)
    path.with_suffix(".new").write_text(json.dumps({"verdicts": found, "seconds": seconds}), encoding="utf-8")
    path.with_suffix(".new").replace(path)


def verdicts(key: Key) -> list[str]:
    """The verdicts that are kept, of seeds 0, 1, ..."""
    path = path_of(key)
    found: list[str] = json.loads(path.read_text(encoding="utf-8"))["verdicts"] if path.exists() else []
    return found


def rows() -> Iterator[dict[str, object]]:
    """One row per control that has verdicts."""
    for key, control in all_controls().items():
        if found := verdicts(key):
            rate = sum(control.hit(verdict) for verdict in found) / len(found)
            counts = dict(sorted(Counter(found).items()))
            row = {"metric": key[0], "control": key[1], "name": key[2], "n": len(found), "rate": rate}
            yield row | {"standard_error": standard_error(rate, len(found)), "verdicts": counts}


def modularity_of_noise() -> list[dict[str, object]]:
    """Products of Gaussian factors, 2048 neurons of width 128, over the share of entries kept."""
    empty = Factors(np.zeros((2048, 128), np.float32), np.zeros((128, 2048), np.float32))
    graph, other = (empty.gaussian(np.random.default_rng(seed)) for seed in (0, 1))
    found = []
    for share in SHARES:
        edges = largest_entries(graph, round(share * 2048**2), "magnitude", loops=True)
        theirs = best_partition(undirected_as_reference(edges), 1, 0, "louvain").modularity
        settings_of = settings(top_share=share, restarts=2)
        ours = [tmi.quality(one, settings_of) for one in (graph, other)]
        found.append({"metric": "tmi", "setting": f"noise, {100 * share:g} % of the entries",
                      "reference_protocol": theirs, "ours": ours[0] - ours[1],
                      "ours_means": "Q less Q of other noise"})  # fmt: skip
    return found


def persistence_of_noise() -> list[dict[str, object]]:
    """200 snapshots of the state of rectified noise without memory, and our exponent of the same noise."""
    codes = np.maximum(np.random.default_rng(0).normal(size=(8192, 1, 1, 128)), 0)
    weights = np.random.default_rng(1).normal(size=(2, 128, 8))
    updates = Updates(((codes[:, 0, 0] @ weights[0]) * (codes[:, 0, 0] @ weights[1])).T)
    order = block_order(8192, np.random.default_rng(2))
    ours = (memory.hurst(updates.projections)[0] or 0.0) - (memory.hurst(updates.projections[:, order])[0] or 0.0)
    found = []
    for damping in DAMPINGS:
        state = Coactivation(codes[:200], 100 * np.arange(1, 201), np.zeros(200, dtype=int), damping, 0.005, 100)
        found.append({"metric": "sps", "setting": f"noise, damping {damping:g}",
                      "reference_protocol": reference_protocol(state)["hurst"], "ours": ours,
                      "ours_means": "H less H of the noise in random order"})  # fmt: skip
    return found


def tables(found: dict) -> dict[str, str]:
    """The tables of docs/metrics.md by the name of their markers."""
    lines = []
    for kind, title in ((NULL, "no structure"), ("planted", "planted structure")):
        share = "false positives" if kind == NULL else "power"
        lines += [f"| metric | {title} | repetitions | {share} ± standard error |", "|---|---|---|---|"]
        for row in found["rows"]:
            if row["control"] == kind:
                rate = f"{row['rate']:.3f} ± {row['standard_error']:.3f}"
                lines.append(f"| {row['metric']} | {row['name']} | {row['n']} | {rate} |")
        lines.append("")
    few = [row["n"] for row in found["rows"] if row["control"] == NULL]
    lines.append(
        f"A rate above {most(max(few)):.3f} in {max(few)} repetitions ({most(min(few)):.3f} in {min(few)}) would say"
        f" that a metric breaks its level of {LEVEL}."
    )
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, help="at most so many (default: as many as the control says)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", default="", help="controls whose metric, kind and name hold these words")
    parser.add_argument("--again", action="store_true", help="forget the verdicts that are kept")
    parser.add_argument("--prepare", action="store_true", help="make what controls of real networks read, and stop")
    parser.add_argument("--tables", action="store_true", help="write the tables alone")
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.jobs)
        return
    if not arguments.tables:
        rates(arguments.repetitions, arguments.jobs, arguments.only, arguments.again)
        found = {
            "command": "python -m benchmarks.calibration",
            "level": LEVEL,
            "rows": list(rows()),
            "artefacts": modularity_of_noise() + persistence_of_noise(),
        }
        JSON.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    found = json.loads(JSON.read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
