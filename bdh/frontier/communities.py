"""Communities of a weighted graph and their modularity, undirected (Newman 2006) and directed (Leicht & Newman 2008).

An adjacency matrix (n,n) is sparse with non-negative weights, row feeds column. Undirected ones are symmetric and
their diagonal counts a loop twice, so that row sums are degrees:
Q = sum over communities of (inside / total - out-degrees * in-degrees / total^2), total the sum of all entries.
A large dense graph is the worst case of the Louvain method, whose nodes begin alone. There it runs on a random eighth
of the edges, and its communities are improved on the whole graph: nodes move to where they gain most, a block of them
at a time, communities merge while that gains, until neither does. At 8,192 nodes and 3 million entries that takes a
third of the time and finds partitions as good (`benchmarks/results/frontier.json`).
Communities are sought in undirected graphs alone: for an asymmetric matrix scikit-network 0.33 weighs the links that
leave a node only, its gains contradict each other and it may never stop.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import sparse

from bdh.frontier.graph import Edges
from bdh.project.errors import ParamsError

TOLERANCE = 1e-4
LARGE, DENSE = 2**19, 128
"""Entries, and entries per node, from which on communities are sought in a part of the edges first."""
PART, BLOCKS, MOST_SWEEPS, FEWEST_NODES = 8, 16, 100, 4


@dataclass(frozen=True)
class Partition:
    """The best of several runs: its modularity and labels (n), and how alike the runs are (None for a single one).

    stability: mean normalised mutual information between the partitions of every two runs, 1 when all agree.
    """

    modularity: float
    labels: np.ndarray
    stability: float | None


def undirected(edges: Edges) -> sparse.csr_matrix:
    """Symmetric weights a_ij + a_ji (n,n) of edges without loops."""
    one_way = directed(edges)
    return sparse.csr_matrix(one_way + one_way.T)


def directed(edges: Edges) -> sparse.csr_matrix:
    """Adjacency (n,n): row feeds column."""
    shape = (edges.neurons, edges.neurons)
    return sparse.csr_matrix((edges.weights, (edges.columns, edges.rows)), shape, dtype=np.float32)


def undirected_as_reference(edges: Edges) -> sparse.csr_matrix:
    """Symmetric weights as the reference makes them: of a_ij and a_ji the one below the diagonal, loops kept.

    A graph library that reads a non-symmetric matrix as an undirected graph keeps one of the two entries; a loop
    counts twice in the degree.
    """
    matrix = sparse.csr_matrix((edges.weights, (edges.rows, edges.columns)), (edges.neurons, edges.neurons))
    lower, upper = sparse.tril(matrix, -1).tocsr(), sparse.triu(matrix, 1).T.tocsr()
    one = lower + upper - upper.multiply(lower > 0)
    graph = sparse.csr_matrix(one + one.T + 2 * sparse.diags(matrix.diagonal()))
    graph.eliminate_zeros()
    return graph


def best_partition(graph: sparse.csr_matrix, restarts: int, seed: int, method: str) -> Partition:
    """The partition of largest modularity of a symmetric graph over `restarts` runs of `method` (louvain, leiden).

    A large dense graph gets one run of louvain: runs differ least there, and each is as good as the best of two of
    scikit-network's. Every node is alone in a graph without edges. Raises ParamsError when leiden is not installed.
    """
    if graph.nnz == 0:
        return Partition(0.0, np.arange(graph.shape[0]), None)
    find = leiden if method == "leiden" else louvain
    restarts = 1 if find is louvain and is_large(graph) else restarts
    found = [find(graph, seed * 1000 + restart) for restart in range(restarts)]
    quality = [modularity(graph, labels) for labels in found]
    best = int(np.argmax(quality))
    alike = [agreement(a, b) for a, b in combinations(found, 2)]
    return Partition(quality[best], found[best], float(np.mean(alike)) if alike else None)


def modularity(graph: sparse.csr_matrix, labels: np.ndarray) -> float:
    """Modularity of the partition `labels` (n), Newman's for a symmetric matrix, Leicht & Newman's for any other."""
    total = float(graph.sum(dtype=np.float64))
    size = int(labels.max()) + 1
    out, into = (np.asarray(graph.sum(axis, dtype=np.float64)).ravel() for axis in (1, 0))
    row = np.repeat(labels, np.diff(graph.indptr))
    inside = float(graph.data[row == labels[graph.indices]].sum(dtype=np.float64))
    outs, ins = (np.bincount(labels, weights=degrees, minlength=size) for degrees in (out, into))
    return inside / total - float(outs @ ins) / total**2


def louvain(graph: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Labels (n) by the Louvain method (Blondel et al. 2008), from a part of the edges of a large dense graph on."""
    if not is_large(graph):
        return whole_louvain(graph, seed)
    labels = whole_louvain(part_of(graph, seed), seed)
    size = np.bincount(labels)
    labels = np.where(size[labels] < FEWEST_NODES, int(size.argmax()), labels)
    return Improvement(graph, seed).improved(labels)


def is_large(graph: sparse.csr_matrix) -> bool:
    """Whether communities are sought in a part of the edges first."""
    return bool(graph.nnz >= max(LARGE, DENSE * graph.shape[0]))


def whole_louvain(graph: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Labels (n) by scikit-network's Louvain method, nodes visited in an order drawn from `seed`."""
    from sknetwork.clustering import Louvain

    found = Louvain(
        modularity="newman",
        tol_optimization=TOLERANCE,
        tol_aggregation=TOLERANCE,
        shuffle_nodes=True,
        random_state=seed,
    )
    return np.asarray(found.fit_predict(graph), dtype=np.int64)


def part_of(graph: sparse.csr_matrix, seed: int) -> sparse.csr_matrix:
    """The graph with one in eight of its edges, both directions of an edge together, at random."""
    n, parts = graph.shape[0], []
    step = max(1, int(LARGE * n / graph.nnz))
    for start in range(0, n, step):
        rows = graph[start : start + step]
        row = np.repeat(np.arange(start, start + rows.shape[0], dtype=np.uint64), np.diff(rows.indptr))
        column = rows.indices.astype(np.uint64)
        edge = np.minimum(row, column) * np.uint64(n) + np.maximum(row, column) + np.uint64(1_000_003 * seed + 1)
        edge *= np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing, Knuth volume 3, section 6.4
        edge ^= edge >> np.uint64(29)
        edge *= np.uint64(0xBF58476D1CE4E5B9)
        kept = (edge >> np.uint64(32)) % np.uint64(PART) == 0
        ends = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
        parts.append(sparse.csr_matrix((rows.data[kept], rows.indices[kept], ends), rows.shape))
    return sparse.csr_matrix(sparse.vstack(parts, format="csr"))


class Improvement:
    """Greedy moves of nodes and mergers of communities in a symmetric graph, until neither gains modularity."""

    def __init__(self, graph: sparse.csr_matrix, seed: int) -> None:
        """Nodes are cut into blocks in an order drawn from `seed`; loops move with their node and change no gain."""
        self.degrees = np.asarray(graph.sum(1, dtype=np.float64)).ravel()
        self.total = float(self.degrees.sum())
        if graph.diagonal().any():
            graph = sparse.csr_matrix(graph - sparse.diags(graph.diagonal(), dtype=graph.dtype))
        order = np.random.default_rng(seed).permutation(graph.shape[0])
        self.blocks = [(rows, graph[rows]) for rows in np.array_split(order, BLOCKS)]

    def improved(self, labels: np.ndarray) -> np.ndarray:
        """Labels (n) of at least the modularity of `labels`."""
        labels = self._moved(labels)
        while (merged := self._merged(labels)) is not None:
            labels = self._moved(merged)
        return labels

    def _moved(self, labels: np.ndarray) -> np.ndarray:
        """Sweeps over all blocks, until one gains less than the tolerance."""
        labels = np.unique(labels, return_inverse=True)[1]
        for _ in range(MOST_SWEEPS):
            used, labels = np.unique(labels, return_inverse=True)
            hot_nC = _one_hot(labels, used.size)
            mass_C = np.bincount(labels, weights=self.degrees, minlength=used.size)
            if sum(self._sweep(rows, block, labels, hot_nC, mass_C) for rows, block in self.blocks) < TOLERANCE:
                break
        return labels

    def _sweep(
        self, rows: np.ndarray, block: sparse.csr_matrix, labels: np.ndarray, hot_nC: np.ndarray, mass_C: np.ndarray
    ) -> float:
        """Move every node of a block to where it gains most; about how much modularity that gains."""
        degree, own, at = self.degrees[rows], labels[rows], np.arange(rows.size)
        gain = block @ hot_nC - degree.astype(np.float32)[:, None] * (mass_C / self.total).astype(np.float32)
        gain[at, own] += (degree**2 / self.total).astype(np.float32)
        best = gain.argmax(1)
        more = gain[at, best] - gain[at, own]
        moving = np.flatnonzero(more > 0)
        if not moving.size:
            return 0.0
        nodes, before, after, weight = rows[moving], own[moving], best[moving], degree[moving]
        hot_nC[nodes, before], hot_nC[nodes, after], labels[nodes] = 0.0, 1.0, after
        mass_C += np.bincount(after, weights=weight, minlength=mass_C.size)
        mass_C -= np.bincount(before, weights=weight, minlength=mass_C.size)
        return 2 * float(more[moving].sum(dtype=np.float64)) / self.total

    def _merged(self, labels: np.ndarray) -> np.ndarray | None:
        """Communities merged two by two, the largest gain first; None where no merger gains more than the tolerance."""
        count = int(labels.max()) + 1
        hot_nC = _one_hot(labels, count)
        between = sum(
            hot_nC[rows].T.astype(np.float64) @ (block @ hot_nC).astype(np.float64) for rows, block in self.blocks
        )
        mass_C = np.bincount(labels, weights=self.degrees, minlength=count)
        gain = between - np.outer(mass_C, mass_C) / self.total
        gain = (gain + gain.T) / 2
        np.fill_diagonal(gain, -np.inf)
        into, won = np.arange(count), 0.0
        while count > 1 and (found := float(gain.max())) > 0:
            a, b = divmod(int(gain.argmax()), count)
            gain[a] += gain[b]
            gain[:, a] += gain[:, b]
            gain[b], gain[:, b], gain[a, a] = -np.inf, -np.inf, -np.inf
            into[into == b] = a
            won += 2 * found / self.total
        return into[labels] if won > TOLERANCE else None


def _one_hot(labels: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros((labels.size, count), dtype=np.float32)
    found[np.arange(labels.size), labels] = 1.0
    return found


def leiden(graph: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Labels (n) by the Leiden method (Traag et al. 2019) of igraph, an optional extra under the GPL.

    Raises ParamsError when it is not installed.
    """
    igraph = _igraph()

    upper = sparse.triu(graph).tocoo()
    weights = np.where(upper.row == upper.col, upper.data / 2, upper.data)
    found = igraph.Graph(n=graph.shape[0], edges=np.stack([upper.row, upper.col], axis=1))
    igraph.set_random_number_generator(random.Random(seed))
    try:
        parts = found.community_leiden(objective_function="modularity", weights=weights.tolist(), n_iterations=-1)
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(parts.membership)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised mutual information of two partitions (arithmetic mean of entropies), 1 where both are one block."""
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    joint = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1]
    entropies = [_entropy(np.bincount(labels)) for labels in (a, b)]
    if sum(entropies) == 0.0:
        return 1.0
    return max(0.0, 2 * (sum(entropies) - _entropy(joint)) / sum(entropies))


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _igraph() -> Any:
    try:
        import igraph
    except ImportError:
        raise ParamsError(
            "params.yaml: frontier.communities: leiden needs igraph; pip install 'hatchery[leiden]' or set louvain"
        ) from None
    return igraph
