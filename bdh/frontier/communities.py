"""Communities of a weighted graph and their modularity, undirected (Newman 2006) and directed (Leicht & Newman 2008).

An adjacency matrix (n,n) is sparse with non-negative weights, row feeds column. Undirected ones are symmetric and
their diagonal counts a loop twice, so that row sums are degrees:
Q = sum over communities of (inside / total - out-degrees * in-degrees / total^2), total the sum of all entries.
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

    Every node is alone in a graph without edges. Raises ParamsError when leiden is not installed.
    """
    if graph.nnz == 0:
        return Partition(0.0, np.arange(graph.shape[0]), None)
    find = leiden if method == "leiden" else louvain
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
    """Labels (n) by the Louvain method (Blondel et al. 2008), nodes visited in an order drawn from `seed`."""
    from sknetwork.clustering import Louvain

    found = Louvain(
        modularity="newman",
        tol_optimization=TOLERANCE,
        tol_aggregation=TOLERANCE,
        shuffle_nodes=True,
        random_state=seed,
    )
    return np.asarray(found.fit_predict(graph), dtype=np.int64)


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
