"""Memory and time of the coactivation state from its c vectors, against the N x N matrices it stands for.

    python -m benchmarks.coactivation                    # N 256 to 16384, dense up to what fits into memory
    python -m benchmarks.coactivation --neurons 256 1024 --repeats 5

The work, the same on both sides: take in U c vectors of one layer and head (U 64, one per window of 128 tokens,
damping .99, eta .005), keep S = 4 snapshots, and give their inner products, sums and Pearson correlations, which is all
that the metrics ask of them. Dense: sigma <- damping * sigma + eta * c c^T in float32 with BLAS (sger, in place), a
copy per snapshot. Ours: `bdh.hebbian.coactivation`. The codes are sparse and positive, 5 % active, as x_sparse is.
Reported: peak of what NumPy allocates (tracemalloc), median seconds, largest relative difference of the numbers.
Runs of both sides alternate. At a size whose dense form does not fit (S + 1 matrices), its memory is counted, not
measured, and its time is left out. One thread unless OMP_NUM_THREADS says otherwise.
Writes benchmarks/results/coactivation.json.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg.blas import sger

from bdh.hebbian.coactivation import Coactivation, inner_products, pearson, sums
from bdh.project.files import write_json
from benchmarks.machine import describe

UPDATES, SNAPSHOTS, WINDOW, DENSITY = 64, 4, 128, 0.05
DAMPING, ETA = 0.99, 0.005
SIZES = (256, 1024, 4096, 8192, 16384)
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def codes_of(neurons: int) -> np.ndarray:
    """Positive sparse codes (U,N), float32, from a fixed seed."""
    generator = np.random.default_rng(0)
    active = generator.random((UPDATES, neurons)) < DENSITY
    return (active * generator.exponential(size=(UPDATES, neurons))).astype(np.float32)


def taken_after() -> np.ndarray:
    """Updates after which a snapshot is taken (S), evenly spaced, the last one included."""
    return np.arange(1, SNAPSHOTS + 1) * (UPDATES // SNAPSHOTS) - 1


def ours(codes_UN: np.ndarray) -> Found:
    """Inner products, sums and Pearson correlations (S,S), (S), (S,S) from the c vectors."""
    tokens = WINDOW * np.arange(1, UPDATES + 1)
    state = Coactivation(codes_UN[:, None, None], tokens, np.zeros(UPDATES, dtype=int), DAMPING, ETA, WINDOW)
    products, totals = inner_products(state, taken_after()), sums(state, taken_after())
    return products, totals, pearson(products, totals, state.entries)


def dense(codes_UN: np.ndarray) -> Found:
    """The same from the matrices, as the two-stage protocol keeps them."""
    neurons = codes_UN.shape[1]
    sigma_NN = np.zeros((neurons, neurons), dtype=np.float32, order="F")
    kept = []
    for update, code_N in enumerate(codes_UN):
        sigma_NN *= DAMPING
        sger(ETA, code_N, code_N, a=sigma_NN, overwrite_a=1)
        if update in taken_after():
            kept.append(sigma_NN.copy(order="F"))
    columns = [matrix.reshape(-1, order="F") for matrix in kept]
    products = np.array([[np.dot(a, b) for b in columns] for a in columns], dtype=np.float64)
    totals = np.array([matrix.sum(dtype=np.float64) for matrix in kept])
    return products, totals, pearson(products, totals, neurons * neurons)


def peak_bytes(work: Callable[[np.ndarray], Found], codes_UN: np.ndarray) -> int:
    """Largest sum of live NumPy allocations while `work` runs, its input and what holds it included."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = codes_UN.copy()
        work(kept)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(work: Callable[[np.ndarray], Found], codes_UN: np.ndarray) -> float:
    """Wall time of one run."""
    gc.collect()
    start = time.perf_counter()
    work(codes_UN)
    return time.perf_counter() - start


def compare(neurons: int, repeats: int, memory: int) -> list[dict[str, Any]]:
    """Rows of one size: peak memory, seconds, and the difference between the two."""
    codes_UN = codes_of(neurons)
    matrices = (SNAPSHOTS + 1) * 4 * neurons**2
    fits = matrices <= memory
    work = f"{UPDATES} updates, {SNAPSHOTS} snapshots, N {neurons}"
    own_peak, dense_peak = peak_bytes(ours, codes_UN), peak_bytes(dense, codes_UN) if fits else matrices
    rows = [_row(work, "peak MiB" if fits else "peak MiB (dense counted)", own_peak / 2**20, dense_peak / 2**20, 1)]
    rows.append(
        _row(work, "MiB kept per snapshot", 4 * neurons * UPDATES / SNAPSHOTS / 2**20, 4 * neurons**2 / 2**20, 1)
    )
    times: dict[str, list[float]] = {"ours": [], "dense": []}
    for _ in range(repeats):
        times["ours"].append(seconds(ours, codes_UN))
        if fits:
            times["dense"].append(seconds(dense, codes_UN))
    peer = statistics.median(times["dense"]) if fits else None
    rows.append(_row(work, "median seconds", statistics.median(times["ours"]), peer, repeats))
    if fits:
        apart = max(
            float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-12)))
            for a, b in zip(ours(codes_UN), dense(codes_UN), strict=True)
        )
        rows.append(_row(work, "largest relative difference (float32 rounding of the dense form)", apart, None, 1))
    return rows


def _row(work: str, metric: str, own: float, peer: float | None, n: int) -> dict[str, Any]:
    ratio = None if peer is None or own == 0 else peer / own
    return {"work": work, "metric": metric, "ours": own, "peer": peer, "ratio": ratio, "n": n}


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-gib", type=float, default=8.0, help="what the dense form may take")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coactivation.json"))
    options = parser.parse_args()
    machine = describe()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    common = {
        "device": f"{machine['processor']}, threads {machine['threads']}",
        "commit": commit.stdout.strip() or None,
    }
    rows = []
    print(f"{'work':40} {'metric':36} {'ours':>12} {'dense':>12} {'ratio':>9} n")
    for neurons in options.neurons:
        for row in compare(neurons, options.repeats, int(options.memory_gib * 2**30)):
            rows.append(row | common)
            shown = [f"{value:12.4g}" if value is not None else f"{'-':>12}" for value in (row["ours"], row["peer"])]
            ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}"
            print(f"{row['work']:40} {row['metric'][:36]:36} {' '.join(shown)} {ratio:>9} {row['n']}", flush=True)
    write_json(options.out, {"peer": "N x N float32 matrices, BLAS sger", "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
