"""TMI: is the neuron graph more modular than graphs of the same kind without structure?

Why: modularity alone says little, since thresholded noise has a Q that runs from .8 to .04 with the number of edges.
So Q is read beside nulls with the same number of edges: the model's own factors with the encoder's columns dealt to
other neurons (same spectra); neurons that each keep their norms and the angle between what they read and write, drawn
independently (a neuron that writes what it reads makes triangles, and so Q, without any group); factors of independent
normal numbers; the configuration model (same degrees); and untrained twins.

What: G = decoder @ encoder within each head (the blocks on the diagonal), signed: the `top_share` largest positive
entries are the excitatory graph, those of -G the inhibitory one; no loops. The value is Newman's Q of the excitatory
graph with weights a_ij + a_ji, best of several Louvain runs, mean over heads. Beside it, each with draws of the
permuted encoder: the directed Q of the same communities (Leicht & Newman 2008), and the Q of the inhibitory graph.
Reference protocol: the largest entries of |G| among all neurons of all heads, one of a_ij, a_ji (below the diagonal
wins), loops kept, one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from bdh.frontier.communities import best_partition, directed, modularity, undirected, undirected_as_reference
from bdh.frontier.graph import Edges, Factors, Sign, head_blocks, largest_entries, rewired, whole_graph
from bdh.frontier.parallel import each
from bdh.frontier.rows import UNTRAINED, Measured, absent, mean_or_none, metric_row, point
from bdh.intervals import against_null
from bdh.models.base import GraphFactors

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject
    from bdh.params import Frontier

GROUPS = 5
REFERENCES = 3
CURVE = (1 / 16, 1 / 4, 1.0, 4.0)
LONGEST_CURVE = 2**22
FEWEST_NEURONS = 32
FEWEST_EDGES = 64
SEED = 0
PERMUTED = "permuted encoder"
ALIGNED = "independent neurons of the same norms and alignment"
GAUSSIAN = "product of Gaussian factors"
REWIRED = "configuration model"
OWN, INHIBITORY, LEFT = "own", "inhibitory", "without a fifth of the neurons"
CURVE_OF = "curve"
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

    number: of the twin. The first three alone are read by the reference protocol, whose graph is that of all heads; the
    first `graph_nulls` also give a draw of the null of Gaussian factors, which depends on the shape alone.
    """
    heads = head_blocks(model)
    if heads[0].neurons < FEWEST_NEURONS or _count(heads[0], settings.top_share) < FEWEST_EDGES:
        return {}
    graphs = list(heads)
    if number < settings.graph_nulls:
        graphs += [head.gaussian(_generator(3, number, at)) for at, head in enumerate(heads)]
    tasks: list[Task] = [partial(quality, graph, settings) for graph in graphs]
    if number < REFERENCES:
        tasks.append(partial(reference_quality, model, settings))
    done = each(tasks, settings.jobs)
    found = {"value": float(np.mean(done[: len(heads)]))}
    if len(graphs) > len(heads):
        found["gaussian"] = float(np.mean(done[len(heads) : len(graphs)]))
    if number < REFERENCES:
        found["reference"] = done[-1]
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
    series = {"trained": heads, PERMUTED: [_dealt(head, 0, at) for at, head in enumerate(heads)]}
    tasks: dict[tuple[Any, ...], Task] = {("reference",): partial(reference_quality, model, settings)}
    for name, blocks in series.items():
        for share in reversed(_shares(heads[0], settings)):
            parts = {(CURVE_OF, name, share, at): block for at, block in enumerate(blocks)}
            tasks |= {key: partial(communities, block, once(settings), share) for key, block in parts.items()}
    tasks |= _tasks(heads, edges, settings)
    done = dict(zip(tasks, each(list(tasks.values()), settings.jobs), strict=True))
    own = [done[OWN, 0, at] for at in range(len(heads))]
    drawn = {name: _by_draw(done, name, heads, settings) for name in (PERMUTED, ALIGNED, REWIRED)}
    nulls = {name: np.array([[one.modularity for one in d] for d in draws]).mean(1) for name, draws in drawn.items()}
    if gaussian := [twin["gaussian"] for twin in twins if "gaussian" in twin]:
        nulls[GAUSSIAN] = np.array(gaussian)
    values = [one.modularity for one in own]
    value = float(np.mean(values))
    row = metric_row(
        value,
        nulls=nulls,
        interval=_jackknife(value, [[done[LEFT, left, at] for at in range(len(heads))] for left in range(GROUPS)]),
        n=sum(head.neurons for head in heads),
        untrained=[twin["value"] for twin in twins],
        reference=done["reference",],
        reference_untrained=[twin["reference"] for twin in twins if "reference" in twin],
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
        inhibitory=_beside(
            [done[INHIBITORY, -1, at].modularity for at in range(len(heads))],
            [[one.modularity for one in draw] for draw in _by_draw(done, INHIBITORY, heads, settings)],
        ),
    )
    row["excess"] = value - row["null_mean"]
    row["drawing"] = drawing(edges[0], settings)
    curves = {
        (name, share): [done[CURVE_OF, name, share, at].modularity for at in range(len(heads))]
        for name in series
        for share in _shares(heads[0], settings)
    }
    return row, [
        point("tmi", _count(heads[0], share), float(np.mean(found)), name) for (name, share), found in curves.items()
    ]


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


DRAWN_NEURONS, DRAWN_EDGES = 96, 240


def drawing(edges: Edges, settings: Frontier) -> dict[str, Any]:
    """What is drawn of one head's graph: its neurons of most edges with their communities, the strongest edges there.

    neurons: their numbers. communities: one of each, 0 the largest. edges: pairs of places among the neurons, flat.
    of: how many neurons and edges there are.
    """
    labels = best_partition(undirected(edges), 1, SEED, settings.communities).labels
    degree = np.bincount(edges.rows, minlength=edges.neurons) + np.bincount(edges.columns, minlength=edges.neurons)
    neurons = np.sort(np.argsort(-degree, kind="stable")[:DRAWN_NEURONS])
    place = np.full(edges.neurons, -1)
    place[neurons] = np.arange(neurons.size)
    inside = np.flatnonzero((place[edges.rows] >= 0) & (place[edges.columns] >= 0))
    strongest = inside[np.argsort(-edges.weights[inside], kind="stable")[:DRAWN_EDGES]]
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    pairs = np.stack([place[edges.columns[strongest]], place[edges.rows[strongest]]], axis=1)
    return {
        "head": 0,
        "of": [int(edges.neurons), int(edges.rows.size)],
        "neurons": neurons.tolist(),
        "communities": rank[labels[neurons]].tolist(),
        "edges": pairs.reshape(-1).tolist(),
    }


Task = Callable[[], Any]


def _tasks(heads: list[Factors], edges: list[Edges], settings: Frontier) -> dict[tuple[Any, ...], Task]:
    """Everything that is looked for communities in, by name, draw and head: the graph, its nulls, parts of it."""
    found: dict[tuple[Any, ...], Task] = {}
    groups = [_generator(2, 0, at).permutation(head.neurons) % GROUPS for at, head in enumerate(heads)]
    for at, (head, group) in enumerate(zip(heads, groups, strict=True)):
        found[OWN, 0, at] = partial(communities, head, settings)
        found[INHIBITORY, -1, at] = partial(communities, head, settings, None, "inhibitory")
        for left in range(GROUPS):
            found[LEFT, left, at] = partial(communities, head.keep(np.flatnonzero(group != left)), once(settings))
        for draw in range(settings.graph_nulls):
            found[PERMUTED, draw, at] = partial(_of_null, head, draw, at, settings)
            found[INHIBITORY, draw, at] = partial(_of_null, head, draw, at, settings, "inhibitory")
            found[ALIGNED, draw, at] = partial(_of_aligned, head, draw, at, settings)
            found[REWIRED, draw, at] = partial(_of_rewired, edges[at], draw, at, settings)
    return found


def _of_null(head: Factors, draw: int, at: int, settings: Frontier, sign: Sign = "excitatory") -> Communities:
    return communities(_dealt(head, draw, at), settings, None, sign)


def _of_aligned(head: Factors, draw: int, at: int, settings: Frontier) -> Communities:
    return communities(head.aligned(_generator(4, draw, at)), settings)


def _of_rewired(edges: Edges, draw: int, at: int, settings: Frontier) -> Communities:
    return _of_edges(rewired(edges, _generator(1, draw, at)), settings)


def _by_draw(
    done: Mapping[tuple[Any, ...], Any], name: str, heads: list[Factors], settings: Frontier
) -> list[list[Communities]]:
    return [[done[name, draw, at] for at in range(len(heads))] for draw in range(settings.graph_nulls)]


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


def _stability(found: Sequence[Communities]) -> float | None:
    return mean_or_none([one.stability for one in found if one.stability is not None])


def _jackknife(value: float, without: list[list[Communities]]) -> tuple[float | None, float | None]:
    """95 % interval of Q over neurons: a delete-one-group jackknife with five random groups per head, t of 4."""
    values = np.array([[one.modularity for one in heads] for heads in without]).mean(1)
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((values - values.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, GROUPS - 1)) * error
    return value - half, value + half


def _shares(head: Factors, settings: Frontier) -> list[float]:
    """Shares of the entries of a curve: from a sixteenth to four times the row's own, below a half and 2^22 entries."""
    shares = [settings.top_share * factor for factor in CURVE if settings.top_share * factor < 0.5]
    return [share for share in shares if share <= settings.top_share or _count(head, share) <= LONGEST_CURVE]


def _curve(name: str, heads: list[Factors], settings: Frontier) -> list[dict[str, Any]]:
    """Q over the number of entries kept per head, one run each."""
    one_run = once(settings)
    return [
        point("tmi", _count(heads[0], share), _mean_quality(heads, one_run, share), name)
        for share in _shares(heads[0], settings)
    ]
