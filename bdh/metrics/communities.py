"""Communities of a weighted undirected graph and their modularity.

The graph is a symmetric sparse matrix (n,n) of non-negative weights whose diagonal counts a loop twice, so that row
sums are degrees. Newman's modularity Q = sum over communities of (inside / 2m - (degrees / 2m)^2), 2m the sum of all
entries.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from scipy import sparse

from bdh.errors import ParamsError

SWEEPS = 50
SETTLED = 0.01
GAIN = 1e-12


def best_modularity(graph: sparse.csr_matrix, restarts: int, seed: int, method: str) -> float:
    """Largest modularity over `restarts` runs of `method` (louvain, leiden); 0 for a graph without edges."""
    if graph.nnz == 0:
        return 0.0
    find = leiden if method == "leiden" else louvain
    return max(modularity(graph, find(graph, seed * 1000 + restart)) for restart in range(restarts))


def modularity(graph: sparse.csr_matrix, labels: np.ndarray) -> float:
    """Newman's modularity of the partition `labels` (n)."""
    total = float(graph.sum())
    degrees = np.asarray(graph.sum(1)).ravel()
    edges = graph.tocoo()
    inside = float(edges.data[labels[edges.row] == labels[edges.col]].sum())
    return inside / total - float((np.bincount(labels, weights=degrees) ** 2).sum()) / total**2


def louvain(graph: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Labels (n) by the Louvain method (Blondel et al. 2008), nodes visited in an order drawn from `seed`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(graph.shape[0])
    while True:
        moved = _move_nodes(graph, generator)
        communities, moved = np.unique(moved, return_inverse=True)
        labels = moved[labels]
        if communities.size == graph.shape[0]:
            return labels
        member = sparse.csr_matrix((np.ones(moved.size), (np.arange(moved.size), moved)))
        graph = sparse.csr_matrix(member.T @ graph @ member)


def _move_nodes(graph: sparse.csr_matrix, generator: np.random.Generator) -> np.ndarray:
    """Move single nodes to the community of largest gain until a sweep moves at most 1 % of them."""
    n = graph.shape[0]
    degrees = np.asarray(graph.sum(1)).ravel()
    per_degree = degrees / degrees.sum()
    loops = graph.diagonal()
    labels, inside = np.arange(n), degrees.copy()
    pointer, neighbours, weights = graph.indptr, graph.indices, graph.data
    for _ in range(SWEEPS):
        moves = 0
        for node in generator.permutation(n).tolist():
            span = slice(pointer[node], pointer[node + 1])
            links = np.bincount(labels[neighbours[span]], weights=weights[span], minlength=n)
            old = int(labels[node])
            links[old] -= loops[node]
            inside[old] -= degrees[node]
            gain = links - per_degree[node] * inside
            new = int(gain.argmax())
            if gain[new] <= gain[old] + GAIN:
                new = old
            moves += new != old
            labels[node] = new
            inside[new] += degrees[node]
        if moves <= SETTLED * n:
            break
    return labels


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


def _igraph() -> Any:
    try:
        import igraph
    except ImportError:
        raise ParamsError(
            "params.yaml: frontier.communities: leiden needs igraph; pip install 'hatchery[leiden]' or set louvain"
        ) from None
    return igraph
