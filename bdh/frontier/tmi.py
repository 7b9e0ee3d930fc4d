"""TMI: is the neuron graph more modular than graphs of the same kind without structure?

Why: modularity alone says little, since thresholded noise has a Q that runs from .8 to .04 with the number of edges.
So Q is read beside nulls with the same number of edges: the model's own factors with the encoder's columns dealt to
other neurons (same spectra), factors of independent normal numbers, the configuration model (same degrees), and
untrained twins.

What: G = decoder @ encoder within each head (the blocks on the diagonal), signed: the `top_share` largest positive
entries are the excitatory graph, those of -G the inhibitory one; no loops. The value is Newman's Q of the excitatory
graph with weights a_ij + a_ji, best of several Louvain runs, mean over heads. Beside it, each with draws of the
permuted encoder: the directed Q of the same communities (Leicht & Newman 2008), and the Q of the inhibitory graph.
Reference protocol: the largest entries of |G| among all neurons of all heads, one of a_ij, a_ji (below the diagonal
wins), loops kept, one run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from bdh.frontier.communities import best_partition, directed, modularity, undirected, undirected_as_reference
from bdh.frontier.graph import Edges, Factors, Sign, head_blocks, largest_entries, rewired, whole_graph
from bdh.frontier.rows import UNTRAINED, Measured, absent, mean_or_none, metric_row, point
from bdh.intervals import against_null
from bdh.models.base import GraphFactors

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject
    from bdh.params import Frontier

GROUPS = 5
CURVE = (1 / 16, 1 / 4, 1.0, 4.0)
FEWEST_NEURONS = 32
FEWEST_EDGES = 64
SEED = 0
PERMUTED = "permuted encoder"
GAUSSIAN = "product of Gaussian factors"
REWIRED = "configuration model"
NO_GRAPH = "this variant has no neuron graph decoder @ encoder"


def compute(context: Context) -> Measured:
    """The TMI row of a run and its curves of Q over the number of entries kept."""
    return measure(context.model.graph_factors(), context.twins["tmi"], context.settings)


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers`, and of the first one the curve of Q over the number of entries kept."""
    graph, settings, number = subject.model.graph_factors(), subject.settings, subject.twin
    found = {} if graph is None or number is None else numbers(graph, settings, number)
    curve = _curve(UNTRAINED, head_blocks(graph), settings) if found and graph is not None and number == 0 else []
    return found, curve


def numbers(model: GraphFactors, settings: Frontier, number: int) -> dict[str, float]:
    """Q and the reference protocol of an untrained twin, none where its graph is too small.

    number: of the twin. The first `graph_nulls` of them also give a draw of the null of Gaussian factors, which depends
    on the shape alone.
    """
    heads = head_blocks(model)
    if heads[0].neurons < FEWEST_NEURONS or _count(heads[0], settings.top_share) < FEWEST_EDGES:
        return {}
    found = {"value": _mean_quality(heads, settings), "reference": reference_quality(model, settings)}
    if number < settings.graph_nulls:
        noise = [head.gaussian(_generator(3, number, at)) for at, head in enumerate(heads)]
        found["gaussian"] = _mean_quality(noise, settings)
    return found


def measure(model: GraphFactors | None, twins: Sequence[Mapping[str, float]], settings: Frontier) -> Measured:
    """The TMI row of a neuron graph, and its curves.

    twins: `numbers` of the untrained twins, with the null of Gaussian factors, which is left out without them. Fewer
    than 32 neurons per head, 64 edges or 64 positive entries cannot be measured: null with a reason.
    """
    if model is None:
        return absent(NO_GRAPH), []
    heads = head_blocks(model)
    n, kept = heads[0].neurons, _count(heads[0], settings.top_share)
    if n < FEWEST_NEURONS or kept < FEWEST_EDGES:
        needs = f"at least {FEWEST_NEURONS} and {FEWEST_EDGES} are needed"
        return absent(f"{n} neurons per head and {kept} edges among them, {needs}"), []
    edges = [largest_entries(head, kept, "excitatory") for head in heads]
    if (fewest := min(one.rows.size for one in edges)) < FEWEST_EDGES:
        return absent(f"{fewest} positive entries within a head, at least {FEWEST_EDGES} are needed"), []
    own = [communities(head, settings) for head in heads]
    drawn = _draws(heads, edges, settings)
    nulls = {name: np.array([[one.modularity for one in d] for d in draws]).mean(1) for name, draws in drawn.items()}
    if gaussian := [twin["gaussian"] for twin in twins if "gaussian" in twin]:
        nulls[GAUSSIAN] = np.array(gaussian)
    values = [one.modularity for one in own]
    value = float(np.mean(values))
    row = metric_row(
        value,
        nulls=nulls,
        interval=_jackknife(heads, value, settings),
        n=sum(head.neurons for head in heads),
        untrained=[twin["value"] for twin in twins],
        reference=reference_quality(model, settings),
        reference_untrained=[twin["reference"] for twin in twins],
        entries=kept * len(heads),
        top_share=settings.top_share,
        method=f"{settings.communities}, best of {settings.restarts}",
        stability=_stability(own),
        stability_null=_stability([one for draw in drawn[PERMUTED] for one in draw]),
        heads=[
            _head(at, one.modularity, [draw[at].modularity for draw in drawn[PERMUTED]], n)
            for at, one in enumerate(own)
        ],
        directed=_beside([one.directed for one in own], [[one.directed for one in draw] for draw in drawn[PERMUTED]]),
        inhibitory=_inhibitory(heads, settings),
    )
    row["excess"] = value - row["null_mean"]
    series = {"trained": heads, PERMUTED: [_dealt(head, 0, at) for at, head in enumerate(heads)]}
    return row, [one for name, blocks in series.items() for one in _curve(name, blocks, settings)]


@dataclass(frozen=True)
class Communities:
    """Undirected and directed modularity of the best communities of a graph, and their stability."""

    modularity: float
    directed: float
    stability: float | None


def excitatory_edges(model: GraphFactors, top_share: float) -> list[Edges]:
    """The excitatory graph of every head: its `top_share` largest positive entries."""
    return [largest_entries(head, _count(head, top_share), "excitatory") for head in head_blocks(model)]


def once(settings: Frontier) -> Frontier:
    """The settings with a single run of the method that finds communities."""
    return settings.model_copy(update={"restarts": 1})


def _draws(heads: list[Factors], edges: list[Edges], settings: Frontier) -> dict[str, list[list[Communities]]]:
    """Draws of the nulls that are made of the graph itself, head by head."""
    found: dict[str, list[list[Communities]]] = {PERMUTED: [], REWIRED: []}
    for draw in range(settings.graph_nulls):
        generators = [_generator(1, draw, at) for at in range(len(heads))]
        found[PERMUTED].append([communities(_dealt(h, draw, at), settings) for at, h in enumerate(heads)])
        found[REWIRED].append([_of_edges(rewired(e, g), settings) for e, g in zip(edges, generators, strict=True)])
    return found


def communities(
    graph: Factors, settings: Frontier, share: float | None = None, sign: Sign = "excitatory"
) -> Communities:
    """Communities of the graph of the largest entries, best of the restarts."""
    return _of_edges(largest_entries(graph, _count(graph, share or settings.top_share), sign), settings)


def quality(graph: Factors, settings: Frontier) -> float:
    """Q of the excitatory graph."""
    return communities(graph, settings).modularity


def _of_edges(edges: Edges, settings: Frontier) -> Communities:
    best = best_partition(undirected(edges), settings.restarts, SEED, settings.communities)
    one_way = modularity(directed(edges), best.labels) if edges.rows.size else 0.0
    return Communities(best.modularity, one_way, best.stability)


def reference_quality(model: GraphFactors, settings: Frontier) -> float:
    """Q as the two-stage reference computes it, one run over all neurons."""
    graph = whole_graph(model)
    edges = largest_entries(graph, _count(graph, settings.top_share), "magnitude", loops=True)
    return best_partition(undirected_as_reference(edges), 1, SEED, settings.communities).modularity


def _mean_quality(
    heads: Sequence[Factors], settings: Frontier, share: float | None = None, sign: Sign = "excitatory"
) -> float:
    return float(np.mean([communities(head, settings, share, sign).modularity for head in heads]))


def _count(graph: Factors, share: float) -> int:
    entries = graph.neurons**2
    return max(1, min(round(share * entries), entries))


def _generator(kind: int, draw: int, head: int) -> np.random.Generator:
    return np.random.default_rng([SEED, kind, draw, head])


def _dealt(graph: Factors, draw: int, head: int) -> Factors:
    return graph.permuted(_generator(0, draw, head))


def _head(head: int, value: float, draws: list[float], neurons: int) -> dict[str, Any]:
    found = against_null(value, np.array(draws))
    return {"head": head, "value": value, "null_mean": found["mean"], "z": found["z"], "p": found["p"], "n": neurons}


def _beside(values: list[float], draws: list[list[float]]) -> dict[str, Any]:
    """Mean over heads beside that of draws of the permuted encoder."""
    value = float(np.mean(values))
    return {"value": value} | against_null(value, np.array(draws).mean(1))


def _inhibitory(heads: list[Factors], settings: Frontier) -> dict[str, Any]:
    """Q of the graph of the largest negative entries beside draws of the permuted encoder."""
    draws = [
        [communities(_dealt(head, draw, at), settings, None, "inhibitory").modularity]
        for draw in range(settings.graph_nulls)
        for at, head in enumerate(heads)
    ]
    by_draw = np.array(draws).reshape(settings.graph_nulls, len(heads)).tolist()
    return _beside([communities(head, settings, None, "inhibitory").modularity for head in heads], by_draw)


def _stability(found: Sequence[Communities]) -> float | None:
    return mean_or_none([one.stability for one in found if one.stability is not None])


def _jackknife(heads: list[Factors], value: float, settings: Frontier) -> tuple[float | None, float | None]:
    """95 % interval of Q over neurons: a delete-one-group jackknife with five random groups per head, t of 4."""
    one_run = once(settings)
    groups = [_generator(2, 0, at).permutation(head.neurons) % GROUPS for at, head in enumerate(heads)]
    values = np.array(
        [
            _mean_quality([h.keep(np.flatnonzero(g != left)) for h, g in zip(heads, groups, strict=True)], one_run)
            for left in range(GROUPS)
        ]
    )
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((values - values.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, GROUPS - 1)) * error
    return value - half, value + half


def _curve(name: str, heads: list[Factors], settings: Frontier) -> list[dict[str, Any]]:
    """Q over the number of entries kept per head, one run each, from a sixteenth to four times the row's own number."""
    one_run = once(settings)
    shares = [settings.top_share * factor for factor in CURVE if settings.top_share * factor < 0.5]
    return [point("tmi", _count(heads[0], share), _mean_quality(heads, one_run, share), name) for share in shares]
