"""The neuron graph of a model, its largest entries, found block by block: no dense (H*N)^2 array is ever made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bdh.models.base import GraphFactors

BLOCK = 512
LARGEST_GRAPH = 2048


@dataclass(frozen=True)
class Factors:
    """The graph |decoder @ encoder| of n neurons, neuron j feeds neuron i. decoder: n,D. encoder: D,n. head: n."""

    decoder: np.ndarray
    encoder: np.ndarray
    head: np.ndarray

    @property
    def neurons(self) -> int:
        """Number of neurons n."""
        return int(self.head.size)

    def keep(self, neurons: np.ndarray) -> Factors:
        """The graph among some of the neurons."""
        return Factors(self.decoder[neurons], self.encoder[:, neurons], self.head[neurons])

    def permuted(self, generator: np.random.Generator) -> Factors:
        """The graph with the encoder's columns dealt out to other neurons: both factors keep their spectra."""
        return Factors(self.decoder, self.encoder[:, generator.permutation(self.neurons)], self.head)

    def gaussian(self, generator: np.random.Generator) -> Factors:
        """A graph of the same shape whose factors are independent standard normal numbers."""
        decoder = generator.standard_normal(self.decoder.shape, dtype=np.float32)
        return Factors(decoder, generator.standard_normal(self.encoder.shape, dtype=np.float32), self.head)


def factors_of(model_factors: GraphFactors, seed: int = 0) -> tuple[Factors, str]:
    """The model's graph and its scope: `all neurons`, or a uniform sample of 2048 of them where it has more.

    Neurons are ordered h*N + n, as the rows of the decoder.
    """
    H, D, N = model_factors.encoder.shape
    encoder = model_factors.encoder.detach().float().cpu().permute(1, 0, 2).reshape(D, H * N).numpy()
    whole = Factors(model_factors.decoder.detach().float().cpu().numpy(), encoder, np.repeat(np.arange(H), N))
    if whole.neurons <= LARGEST_GRAPH:
        return whole, "all neurons"
    chosen = np.sort(np.random.default_rng(seed).choice(whole.neurons, LARGEST_GRAPH, replace=False))
    return whole.keep(chosen), f"uniform sample of {LARGEST_GRAPH} of {whole.neurons} neurons"


def largest_entries(factors: Factors, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of the `count` largest entries of |decoder @ encoder|, rows in blocks of 512."""
    values, places = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
    n = factors.neurons
    for start in range(0, n, BLOCK):
        block = np.abs(factors.decoder[start : start + BLOCK] @ factors.encoder).reshape(-1)
        threshold = values.min() if values.size == count else 0.0
        inside = np.flatnonzero(block > threshold)
        values = np.concatenate([values, block[inside]])
        places = np.concatenate([places, start * n + inside])
        if values.size > count:
            kept = np.sort(np.argpartition(values, values.size - count)[values.size - count :])
            values, places = values[kept], places[kept]
    return places // n, places % n, values


def undirected(entries: tuple[np.ndarray, np.ndarray, np.ndarray], neurons: int) -> sparse.csr_matrix:
    """Symmetric weights a_ij + a_ji without loops (n,n)."""
    rows, columns, values = entries
    off = rows != columns
    directed = sparse.csr_matrix((values[off].astype(np.float64), (rows[off], columns[off])), (neurons, neurons))
    return sparse.csr_matrix(directed + directed.T)


def undirected_as_reference(entries: tuple[np.ndarray, np.ndarray, np.ndarray], neurons: int) -> sparse.csr_matrix:
    """Symmetric weights as the reference makes them: of a_ij and a_ji the one below the diagonal, loops kept.

    A graph library that reads a non-symmetric matrix as an undirected graph keeps one of the two entries; a loop
    counts twice in the degree.
    """
    rows, columns, values = entries
    directed = sparse.csr_matrix((values.astype(np.float64), (rows, columns)), (neurons, neurons))
    lower, upper = sparse.tril(directed, -1).tocsr(), sparse.triu(directed, 1).T.tocsr()
    alone = upper - upper.multiply(lower > 0)
    one = lower + alone
    graph = sparse.csr_matrix(one + one.T + 2 * sparse.diags(directed.diagonal()))
    graph.eliminate_zeros()
    return graph
