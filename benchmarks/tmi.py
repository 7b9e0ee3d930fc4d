"""Time and memory of the neuron graph: exact threshold and communities, beside a dense matrix and networkx Louvain.

python -m benchmarks.tmi            writes benchmarks/results/tmi.json

Rows: seconds (threshold, graph and communities), CPU seconds with making the factors, seconds of the threshold alone,
peak memory, and the Q found; `ratio` is peer over ours. The peer at `n` neurons builds the dense matrix, takes its
percentile, makes a networkx graph and runs its Louvain once; at the size of the reference (16384 neurons) it is not
run and its fields are null. Every measurement runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bdh.frontier.communities import best_partition, undirected_as_reference
from bdh.frontier.graph import Factors, largest_entries
from benchmarks.machine import describe

SHARE = 0.023
RESULT = Path(__file__).parent / "results" / "tmi.json"


def noise(neurons: int, width: int) -> Factors:
    empty = Factors(np.zeros((neurons, width), np.float32), np.zeros((width, neurons), np.float32))
    return empty.gaussian(np.random.default_rng(0))


def ours(neurons: int, width: int) -> dict[str, float]:
    graph, start = noise(neurons, width), time.perf_counter()
    edges = largest_entries(graph, round(SHARE * neurons**2), "magnitude", loops=True)
    threshold = time.perf_counter() - start
    found = best_partition(undirected_as_reference(edges), 1, 0, "louvain")
    return {"threshold": threshold, "seconds": time.perf_counter() - start, "q": found.modularity}


def peer(neurons: int, width: int) -> dict[str, float]:
    import networkx as nx

    graph, start = noise(neurons, width), time.perf_counter()
    dense = np.abs(graph.decoder @ graph.encoder)
    dense[dense < np.quantile(dense, 1 - SHARE)] = 0.0
    threshold = time.perf_counter() - start
    network = nx.from_numpy_array(dense)
    parts = nx.community.louvain_communities(network, seed=0)
    seconds = time.perf_counter() - start
    return {"threshold": threshold, "seconds": seconds, "q": nx.community.modularity(network, parts)}


def apart(who: str, neurons: int, width: int) -> dict[str, float]:
    """`ours` or `peer` in a process of its own, with its peak resident memory in MiB."""
    command = [sys.executable, "-m", "benchmarks.tmi", "--only", who, "--neurons", str(neurons), "--width", str(width)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def rows(small: int, large: int, width: int) -> list[dict[str, object]]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    device = describe()
    found = []
    for neurons, compared in ((small, True), (large, False)):
        mine, theirs = apart("ours", neurons, width), apart("peer", neurons, width) if compared else None
        work = f"TMI of {neurons} neurons, width {width}, {round(SHARE * neurons**2)} edges, one seed"
        for metric in ("seconds", "cpu_seconds", "threshold", "peak_rss_mib", "q"):
            other = None if theirs is None else theirs[metric]
            ratio = None if other is None or metric == "q" else other / mine[metric]
            found.append(
                {"work": work, "metric": metric, "ours": mine[metric], "peer": other, "ratio": ratio, "n": 1,
                 "device": f"{device['processor']}, {device['cores']} cores, 1 thread", "commit": commit}
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=4096, help="neurons that networkx can finish")
    parser.add_argument("--large", type=int, default=16384)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--neurons", type=int, default=0)
    parser.add_argument("--only", choices=("ours", "peer"), default=None)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.only:
        before = time.process_time()
        found = {"ours": ours, "peer": peer}[arguments.only](arguments.neurons, arguments.width)
        found["cpu_seconds"] = time.process_time() - before
        found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    measured = rows(arguments.small, arguments.large, arguments.width)
    arguments.out.write_text(json.dumps({"peer": "networkx", "rows": measured}, indent=2) + "\n")
    for row in measured:
        print(row)


if __name__ == "__main__":
    main()
