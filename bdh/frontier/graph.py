"""The neuron graph of a model, its largest entries, found block by block: no dense (H*N)^2 array is ever made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdh.models.base import GraphFactors

Sign = Literal["excitatory", "inhibitory", "magnitude"]
BLOCK_BYTES = 16 * 2**20
SAMPLE = 2**16
SPARE = 6.0
WHOLE = 2**22


@dataclass(frozen=True)
class Factors:
    """The graph decoder @ encoder of n neurons: entry i,j is how strongly neuron j feeds neuron i.

    decoder: n,D. encoder: D,n.
    """

    decoder: np.ndarray
    encoder: np.ndarray

    @property
    def neurons(self) -> int:
        """Number of neurons n."""
        return int(self.decoder.shape[0])

    def keep(self, neurons: np.ndarray) -> Factors:
        """The graph among some of the neurons."""
        return Factors(self.decoder[neurons], self.encoder[:, neurons])

    def permuted(self, generator: np.random.Generator) -> Factors:
        """The graph with the encoder's columns dealt out to other neurons: both factors keep their spectra."""
        return Factors(self.decoder, self.encoder[:, generator.permutation(self.neurons)])

    def aligned(self, generator: np.random.Generator) -> Factors:
        """A graph without groups whose neurons are each like one of this graph by themselves.

        Every neuron keeps the norms of what it reads (its column of the encoder, r) and writes (its row of the decoder,
        w) and the cosine c between the two: w becomes c r + sqrt(1 - c^2) o, o orthogonal to r. The directions of r and
        of o are drawn anew, from normal distributions with the second moments of r's and of o's directions, so that
        the spectra stay nearly too, and no neuron's direction knows of another's.
        """
        read, read_norm = _directions(self.encoder.T)
        write, write_norm = _directions(self.decoder)
        cosine = np.clip((write * read).sum(1, keepdims=True), -1.0, 1.0)
        beside = _directions(write - cosine * read)[0]
        drawn = _directions(generator.standard_normal(read.shape) @ _root(read))[0]
        other = generator.standard_normal(read.shape) @ _root(beside)
        other = _directions(other - (other * drawn).sum(1, keepdims=True) * drawn)[0]
        wrote = write_norm * (cosine * drawn + np.sqrt(1.0 - cosine**2) * other)
        return Factors(wrote.astype(np.float32), np.ascontiguousarray((read_norm * drawn).T.astype(np.float32)))

    def gaussian(self, generator: np.random.Generator) -> Factors:
        """A graph of the same shape whose factors are independent standard normal numbers."""
        decoder = generator.standard_normal(self.decoder.shape, dtype=np.float32)
        return Factors(decoder, generator.standard_normal(self.encoder.shape, dtype=np.float32))


@dataclass(frozen=True)
class Edges:
    """Directed weighted edges column j -> row i with positive weights. rows, columns, weights: m. neurons: n."""

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    neurons: int


def _directions(vectors_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n,D) and norms (n,1), float64; a vector of zeros stays one."""
    norm = np.linalg.norm(vectors_nD.astype(np.float64), axis=1, keepdims=True)
    return vectors_nD / np.where(norm > 0, norm, 1.0), norm


def _root(vectors_nD: np.ndarray) -> np.ndarray:
    """A matrix (D,D) that gives normal numbers the second moments of the vectors."""
    values, axes = np.linalg.eigh(vectors_nD.T @ vectors_nD / len(vectors_nD))
    return (axes * np.sqrt(np.clip(values, 0.0, None))) @ axes.T


def whole_graph(model: GraphFactors) -> Factors:
    """The graph among all neurons of all heads, ordered h*N + n as the rows of the decoder."""
    H, D, N = model.encoder.shape
    encoder = model.encoder.detach().float().cpu().permute(1, 0, 2).reshape(D, H * N).numpy()
    return Factors(model.decoder.detach().float().cpu().numpy(), encoder)


def head_blocks(model: GraphFactors) -> list[Factors]:
    """The graph among the neurons of each head by itself, the blocks on the diagonal of the whole graph."""
    H, _, N = model.encoder.shape
    graph = whole_graph(model)
    return [graph.keep(np.arange(head * N, (head + 1) * N)) for head in range(H)]


def largest_entries(graph: Factors, count: int, sign: Sign, loops: bool = False) -> Edges:
    """The `count` largest positive entries of decoder @ encoder, of its negative, or of its magnitude.

    Exact: rows are multiplied in blocks of 16 MiB; what lies above a lower bound of the threshold, taken from a sample
    of entries, is collected, and the largest of those are kept. A bound that proves too high is lowered and the pass
    repeated. Memory is that of about 2 * `count` entries and one block. Fewer edges when fewer entries are positive;
    without `loops` the diagonal is left out. The order is that of rows, then columns.
    """
    bound = 0.0 if graph.neurons**2 <= WHOLE else _lower_bound(graph, count, sign)
    while True:
        values, places = _collect(graph, count, sign, loops, bound)
        if values.size >= count or bound <= 0.0:
            break
        bound = bound / 2 if bound > 1e-30 else 0.0
    if values.size > count:
        values, places = _largest(values, places, count)
    return Edges(places // graph.neurons, places % graph.neurons, values, graph.neurons)


def _collect(graph: Factors, count: int, sign: Sign, loops: bool, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and flat places of the entries above `bound`, cut back to the `count` largest whenever twice as many."""
    n, found_values, found_places, held = graph.neurons, [], [], 0
    step = max(1, BLOCK_BYTES // (4 * n))
    for start in range(0, n, step):
        block = _signed(graph.decoder[start : start + step] @ graph.encoder, sign)
        if not loops:
            rows = np.arange(len(block))
            block[rows, start + rows] = 0.0
        flat = block.reshape(-1)
        inside = np.flatnonzero(flat > bound)
        found_values.append(flat[inside])
        found_places.append(start * n + inside)
        held += inside.size
        if held > 2 * count:
            values, places = _largest(np.concatenate(found_values), np.concatenate(found_places), count)
            found_values, found_places, held = [values], [places], count
            bound = max(bound, float(np.nextafter(values.min(), np.float32(0.0))))
    return np.concatenate(found_values), np.concatenate(found_places)


def _largest(values: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    kept = np.sort(np.argpartition(values, values.size - count)[values.size - count :])
    return values[kept], places[kept]


def _lower_bound(graph: Factors, count: int, sign: Sign) -> float:
    """A number that the `count`-th largest entry very likely exceeds, from 2^16 entries drawn with replacement."""
    generator, parts = np.random.default_rng(0), []
    for _ in range(SAMPLE // 2**14):
        rows, columns = generator.integers(0, graph.neurons, (2, 2**14))
        parts.append(_signed(np.einsum("sd,ds->s", graph.decoder[rows], graph.encoder[:, columns]), sign))
    entries = np.concatenate(parts)
    expected = count / graph.neurons**2 * entries.size
    rank = int(expected + SPARE * np.sqrt(expected) + SPARE)
    return (
        max(0.0, float(np.partition(entries, entries.size - rank)[entries.size - rank])) if rank < entries.size else 0.0
    )


def _signed(entries: np.ndarray, sign: Sign) -> np.ndarray:
    return entries if sign == "excitatory" else -entries if sign == "inhibitory" else np.abs(entries)


def rewired(edges: Edges, generator: np.random.Generator, rounds: int = 4) -> Edges:
    """A draw of the configuration model: the same in- and out-degrees, no loops, no edge twice.

    In every round all edges are paired at random and each pair swaps its targets where neither new edge is a loop,
    exists already, or is made twice in the round. A weight stays with the source of its edge.
    """
    n, rows = edges.neurons, edges.rows.copy()
    half = rows.size // 2
    taken, twice = (np.zeros(n * n, dtype=bool) for _ in range(2))
    taken[rows * n + edges.columns] = True
    for _ in range(rounds):
        order = generator.permutation(rows.size)
        first, second = order[:half], order[half : 2 * half]
        made = np.concatenate([rows[second] * n + edges.columns[first], rows[first] * n + edges.columns[second]])
        ordered = np.sort(made)
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        twice[again] = True
        wrong = taken[made] | twice[made] | (made // n == made % n)
        twice[again] = False
        swap = ~(wrong[:half] | wrong[half:])
        a, b = first[swap], second[swap]
        moved = np.concatenate([a, b])
        taken[rows[moved] * n + edges.columns[moved]] = False
        rows[a], rows[b] = rows[b], rows[a]
        taken[rows[moved] * n + edges.columns[moved]] = True
    return Edges(rows, edges.columns, edges.weights, n)
