"""Which neurons are more active where a concept is: matched rank-biserial correlations, tested on documents apart.

M tokens, n neurons, C concepts, G clusters. The tokens of a concept are compared with the tokens outside it of the
same frequency class: the rank-biserial correlation r = 2 AUROC - 1 within every class, weighted by the concept's tokens
in it; 0 is chance, 1 perfect separation. With ranks taken within the class it is a difference of mean ranks.
Standard errors are cluster-robust (sandwich), since neighbouring tokens are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from bdh.intervals import LEVEL

FEWEST_CLUSTERS = 5
CANDIDATE_P = 0.01
EFFECT = 0.2


@dataclass(frozen=True)
class Half:
    """The tokens of one half of the documents.

    concepts: M,C bool. frequency: M, class of each token's frequency. cluster: M,C cluster of each token for each
    concept, numbered from 0.
    """

    concepts: np.ndarray
    frequency: np.ndarray
    cluster: np.ndarray


def ridits(activations_Mn: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Average ranks of every column within each frequency class (M), over the size of the class: in (0,1), float32.

    Activations are compared in half precision.
    """
    found = np.empty(activations_Mn.shape, dtype=np.float32)
    for one in np.unique(frequency):
        where = np.flatnonzero(frequency == one)
        found[where] = _average_ranks(activations_Mn[where].T).T / np.float32(where.size)
    return found


def _average_ranks(activations_nM: np.ndarray) -> np.ndarray:
    """Ranks from 1 to M within every row, ties share their mean."""
    bits = (np.clip(activations_nM, -6e4, 6e4).astype(np.float16) + np.float16(0)).view(np.int16)
    keys = np.where(bits >= 0, bits, np.int16(-32768) - bits - 1).astype(np.int16)
    order = np.argsort(keys, axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, 1)
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = np.arange(ordered.shape[1], dtype=np.int32)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.roll(new, -1, axis=1)
    ends[:, -1] = True
    last = np.minimum.accumulate(np.where(ends, place, place[-1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(ordered.shape, dtype=np.float32)
    np.put_along_axis(ranks, order, ((first + last) / 2 + 1).astype(np.float32), 1)
    return ranks


def usable(halves: tuple[Half, Half]) -> np.ndarray:
    """Concepts (C, bool) that occur in, and are missing from, at least 5 clusters of both halves."""
    enough = np.ones(halves[0].concepts.shape[1], dtype=bool)
    for half in halves:
        for concept, inside in enumerate(half.concepts.T):
            held, lacking = (np.unique(half.cluster[part, concept]).size for part in (inside, ~inside))
            enough[concept] &= min(held, lacking) >= FEWEST_CLUSTERS
    return enough


def effects(ridits_Mn: np.ndarray, half: Half) -> tuple[np.ndarray, np.ndarray]:
    """Rank-biserial correlation and one-sided p of every concept and neuron (C,n); p is small where r is above 0.

    Clusters that hold a concept give the degrees of freedom, less one. A concept that no token outside shares a
    frequency class with has r 0 and p 1.
    """
    weights_MC, cells_MC, number = _weights(half)
    M, C = weights_MC.shape
    G = int(half.cluster.max()) + 1
    token, concept = np.tile(np.arange(M)[:, None], C), np.tile(np.arange(C), (M, 1))
    group = (concept * G + half.cluster).ravel()
    per_cluster = sparse.csr_matrix((weights_MC.ravel(), (group, token.ravel())), (C * G, M), dtype=np.float32)
    sizes = np.maximum(np.bincount(cells_MC.ravel(), minlength=number), 1)
    averages = sparse.csr_matrix(
        ((1 / sizes)[cells_MC.ravel()], (cells_MC.ravel(), token.ravel())), (number, M), dtype=np.float32
    )
    expected = sparse.csr_matrix((weights_MC.ravel(), (group, cells_MC.ravel())), (C * G, number), dtype=np.float32)
    raw = (per_cluster @ ridits_Mn).reshape(C, G, -1)
    rest = raw - (expected @ (averages @ ridits_Mn)).reshape(C, G, -1)
    r = 2 * raw.sum(1)
    held = np.array([np.unique(half.cluster[half.concepts[:, c], c]).size for c in range(C)])
    error = 2 * np.sqrt((rest.astype(np.float64) ** 2).sum(1) * (held / np.maximum(held - 1, 1))[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        p = student.sf(r / error, np.maximum(held - 1, 1)[:, None])
    return r, np.where((error > 1e-9) & (held > 1)[:, None], p, 1.0)


def _weights(half: Half) -> tuple[np.ndarray, np.ndarray, int]:
    """Weight of each token in each concept's r (M,C), its cell (concept, frequency class, inside or outside), cells."""
    _, frequency = np.unique(half.frequency, return_inverse=True)
    F, C = int(frequency.max()) + 1, half.concepts.shape[1]
    one_hot = np.zeros((frequency.size, F))
    one_hot[np.arange(frequency.size), frequency] = 1.0
    inside_CF = half.concepts.T.astype(float) @ one_hot
    outside_CF = one_hot.sum(0) - inside_CF
    inside_CF = np.where(outside_CF > 0, inside_CF, 0.0)
    share_CF = inside_CF / np.maximum(inside_CF.sum(1, keepdims=True), 1.0)
    plus = np.where(inside_CF > 0, 1.0 / np.maximum(inside_CF.sum(1, keepdims=True), 1.0), 0.0)
    minus = -share_CF / np.maximum(outside_CF, 1.0)
    weights_MC = np.where(half.concepts, plus.T[frequency], minus.T[frequency])
    cells_MC = (np.arange(C)[None, :] * F + frequency[:, None]) * 2 + half.concepts
    return weights_MC, cells_MC, 2 * C * F


def selective(ridits: tuple[np.ndarray, np.ndarray], halves: tuple[Half, Half]) -> tuple[np.ndarray, np.ndarray]:
    """Which neurons are selective for which concepts (C,n, bool), and r on the second half (C,n).

    Candidates: p < 0.01 and r >= 0.2 on the first half. Selective: significant on the second half among all
    candidates, at a false discovery rate of 5 % under any dependence (Benjamini & Yekutieli 2001), and r >= 0.2 there.
    """
    r_first, p_first = effects(ridits[0], halves[0])
    candidates = (p_first < CANDIDATE_P) & (r_first >= EFFECT)
    r_second, p_second = effects(ridits[1], halves[1])
    found = np.zeros(candidates.shape, dtype=bool)
    found[candidates] = false_discovery_control(p_second[candidates], method="by") <= LEVEL
    return found & (r_second >= EFFECT), r_second
