"""TMI: is the neuron graph more modular than graphs of the same kind without structure?

Why: modularity alone says little, since thresholded noise has a Q that runs from .8 to .04 with the number of edges.
So Q is read beside nulls with the same number of edges: factors of independent normal numbers, the model's own
factors with the encoder's columns dealt to other neurons (same spectra, same entries' distribution, no pairing), and
an untrained twin.

What: G = |decoder @ encoder|, the `top_share` largest entries, weights a_ij + a_ji, loops left out, Newman's Q of the
best of several Louvain runs. Reference protocol: one of a_ij, a_ji (below the diagonal wins), loops kept, one run.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdh.metrics.communities import best_modularity
from bdh.metrics.graph import Factors, factors_of, largest_entries, undirected, undirected_as_reference
from bdh.metrics.rows import UNTRAINED, absent, metric_row, point
from bdh.models.base import GraphFactors

GROUPS = 5
CURVE = (1 / 16, 1 / 4)
PERMUTED = "permuted encoder"
NO_GRAPH = "this variant has no neuron graph decoder @ encoder"


@dataclass(frozen=True)
class Settings:
    """top_share of the entries kept; restarts per partition; draws of each null; louvain or leiden; seed."""

    top_share: float
    restarts: int
    null_draws: int
    method: str
    seed: int = 0


def compute(
    model: GraphFactors | None, twins: list[GraphFactors], settings: Settings
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The TMI row of a model beside its untrained twins, and its curve of Q over the number of entries kept."""
    if model is None:
        return absent(NO_GRAPH), []
    graph, scope = factors_of(model, settings.seed)
    others = [factors_of(twin, settings.seed)[0] for twin in twins]
    permuted = [graph.permuted(_generator(settings, draw)) for draw in range(settings.null_draws)]
    gaussian = [graph.gaussian(_generator(settings, draw)) for draw in range(settings.null_draws)]
    entries = _count(graph, settings.top_share)
    value = quality(graph, settings)
    permuted_values = [quality(draw, settings) for draw in permuted]
    untrained = [quality(other, settings) for other in others]
    row = metric_row(
        value,
        nulls={
            PERMUTED: np.array(permuted_values),
            "product of Gaussian factors": np.array([quality(draw, settings) for draw in gaussian]),
        },
        interval=_jackknife(graph, value, settings),
        n=graph.neurons,
        untrained=untrained,
        reference=reference_quality(graph, settings),
        reference_untrained=[reference_quality(other, settings) for other in others],
        entries=entries,
        top_share=settings.top_share,
        scope=scope,
        method=f"{settings.method}, best of {settings.restarts}",
        heads=[_head_row(graph, permuted[0], head, settings) for head in range(int(graph.head.max()) + 1)],
    )
    series = {"trained": (graph, value), PERMUTED: (permuted[0], permuted_values[0])}
    series |= {UNTRAINED: (others[0], untrained[0])} if others else {}
    return row, [one for name, (of, known) in series.items() for one in _curve(name, of, known, settings)]


def quality(graph: Factors, settings: Settings, share: float | None = None) -> float:
    """Q of the undirected graph of the largest entries, best of the restarts."""
    entries = largest_entries(graph, _count(graph, share or settings.top_share))
    symmetric = undirected(entries, graph.neurons)
    return best_modularity(symmetric, settings.restarts, settings.seed, settings.method)


def reference_quality(graph: Factors, settings: Settings) -> float:
    """Q as the two-stage reference computes it, one run."""
    entries = largest_entries(graph, _count(graph, settings.top_share))
    return best_modularity(undirected_as_reference(entries, graph.neurons), 1, settings.seed, settings.method)


def _count(graph: Factors, share: float) -> int:
    return max(1, min(round(share * graph.neurons**2), graph.neurons**2))


def _generator(settings: Settings, draw: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, draw])


def _jackknife(graph: Factors, value: float, settings: Settings) -> tuple[float | None, float | None]:
    """95 % interval of Q over neurons: a delete-one-group jackknife with five random groups of neurons."""
    if graph.neurons < 4 * GROUPS:
        return None, None
    group = np.random.default_rng(settings.seed).permutation(graph.neurons) % GROUPS
    one_run = dataclasses.replace(settings, restarts=1)
    values = np.array([quality(graph.keep(np.flatnonzero(group != left)), one_run) for left in range(GROUPS)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((values - values.mean()) ** 2).sum()))
    return value - 1.96 * error, value + 1.96 * error


def _head_row(graph: Factors, permuted: Factors, head: int, settings: Settings) -> dict[str, Any]:
    """Q of the block of one head, beside one draw of the permuted encoder."""
    members = np.flatnonzero(graph.head == head)
    own = quality(graph.keep(members), settings)
    return {"head": head, "value": own, "null_mean": quality(permuted.keep(members), settings), "n": int(members.size)}


def _curve(name: str, graph: Factors, known: float, settings: Settings) -> list[dict[str, Any]]:
    """Q over the number of entries kept: fewer (one run each) up to the row's own number (`known`)."""
    one_run = dataclasses.replace(settings, restarts=1)
    shares = [settings.top_share * factor for factor in CURVE]
    points = [point("tmi", _count(graph, share), quality(graph, one_run, share), name) for share in shares]
    return [*points, point("tmi", _count(graph, settings.top_share), known, name)]
