"""Degree distributions of a neuron graph: heavier than an exponential, and if so, a power law or a lognormal?

A straight line through a log-log plot finds a power law in almost anything. Here the tail is fitted by maximum
likelihood from the cut-off that the Kolmogorov-Smirnov distance picks (Clauset, Shalizi & Newman 2009; package
`powerlaw`, Alstott et al. 2014), and compared with an exponential and a lognormal on the same tail by Vuong's
normalised likelihood ratio, which is standard normal where both fit alike.

The value is the ratio against the exponential, positive for a heavier tail; the verdict also asks that untrained
twins do not show it. `law` says what the comparison with the lognormal allows to say beyond that.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bdh.frontier.graph import Edges
from bdh.frontier.rows import UNTRAINED, Measured, absent, metric_row, point
from bdh.frontier.tmi import NO_GRAPH, excitatory_edges
from bdh.intervals import LEVEL

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject

FEWEST = 50
POINTS = 24
SIDES = ("in", "out")
EXPONENTIAL = "exponential tail"
QUANTILE = 1.959963985  # of the standard normal distribution, 97.5 %


def degrees_of(blocks: list[Edges]) -> dict[str, np.ndarray]:
    """In- and out-degrees of all neurons of all blocks, unweighted."""
    return {
        "in": np.concatenate([np.bincount(edges.rows, minlength=edges.neurons) for edges in blocks]),
        "out": np.concatenate([np.bincount(edges.columns, minlength=edges.neurons) for edges in blocks]),
    }


def compute(context: Context) -> Measured:
    """Rows for `in` and `out` degrees of the excitatory graph of a run beside its twins', and their distributions."""
    own, twins = context.model.graph_factors(), context.twins["degrees"]
    if own is None:
        return dict.fromkeys(SIDES, absent(NO_GRAPH)), []
    found = degrees_of(excitatory_edges(own, context.settings.top_share))
    rows = {side: row(found[side], [twin[side] for twin in twins if twin[side]]) for side in SIDES}
    return rows, [one for side in SIDES for one in tail(found[side], f"{side}, trained")]


def tail(degrees: np.ndarray, series: str) -> list[dict[str, Any]]:
    """The share of neurons of every degree or more, at no more than 24 degrees that are evenly spread over its log."""
    positive = np.unique(degrees[degrees > 0])
    if not positive.size:
        return []
    places = np.unique(np.searchsorted(positive, np.geomspace(positive[0], positive[-1], POINTS)))
    shown = positive[places[places < positive.size]]
    return [point("degrees", float(degree), float((degrees >= degree).mean()), series) for degree in shown]


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers` of its in- and out-degrees, and of the first one their distributions."""
    own = subject.model.graph_factors()
    if own is None:
        return {}, []
    found = degrees_of(excitatory_edges(own, subject.settings.top_share))
    curves = [one for side in SIDES for one in tail(found[side], f"{side}, {UNTRAINED}")] if subject.twin == 0 else []
    return {side: numbers(found[side]) for side in SIDES}, curves


def numbers(degrees: np.ndarray) -> dict[str, float]:
    """Value and exponent of one sample of degrees; none where it cannot be fitted."""
    found = fit(degrees)
    return {} if found is None else {"value": found["exponential"][0], "alpha": found["alpha"]}


def row(degrees: np.ndarray, twins: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The row of one sample of degrees beside `numbers` of untrained twins.

    Fewer than 50 in the tail cannot be fitted: null with a reason.
    """
    own = fit(degrees)
    if own is None:
        return absent(f"fewer than {FEWEST} neurons in the tail, or all degrees the same")
    value, p = own["exponential"]
    alternative, chance = own["lognormal"]
    return metric_row(
        value,
        nulls={},
        tests={EXPONENTIAL: {"mean": 0.0, "sd": 1.0, "z": value, "p": p, "draws": 0, "p_method": "likelihood ratio"}},
        interval=(value - QUANTILE, value + QUANTILE),
        n=own["tail"],
        untrained=[twin["value"] for twin in twins],
        reference=None,
        reference_untrained=[],
        alpha=own["alpha"],
        alpha_ci_low=own["alpha"] - QUANTILE * own["sigma"],
        alpha_ci_high=own["alpha"] + QUANTILE * own["sigma"],
        alpha_untrained=[twin["alpha"] for twin in twins],
        smallest=own["smallest"],
        distance=own["distance"],
        lognormal={"ratio": alternative, "p": chance},
        law=law(own),
    )


def fit(degrees: np.ndarray) -> dict[str, Any] | None:
    """Power law of the tail and its likelihood ratios (value, p) against exponential and lognormal.

    None with fewer than 50 degrees in the tail, fewer than two different ones, or a fit that does not converge.
    """
    import powerlaw

    positive = degrees[degrees > 0]
    if positive.size < FEWEST or np.unique(positive).size < 3:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        found = powerlaw.Fit(positive, discrete=True, verbose=False)
        tail = int((positive >= found.xmin).sum())
        if tail < FEWEST:
            return None
        try:
            ratios = {
                name: tuple(map(float, found.distribution_compare("power_law", name, normalized_ratio=True)))
                for name in ("exponential", "lognormal")
            }
        except ValueError:  # the lognormal of a tail of very few values runs away until no point lies in its range
            return None
        error = float(found.power_law.standard_err)
    numbers = (found.alpha, error, found.power_law.D, *ratios["exponential"], *ratios["lognormal"])
    if not all(math.isfinite(float(number)) for number in numbers):
        return None
    return {
        "alpha": float(found.alpha),
        "sigma": error,
        "smallest": int(found.xmin),
        "distance": float(found.power_law.D),
        "tail": tail,
        **ratios,
    }


def law(found: dict[str, Any]) -> str:
    """What both likelihood ratios allow to say of the tail, each at the level 0.05."""
    heavier, p = found["exponential"]
    better, chance = found["lognormal"]
    if p >= LEVEL:
        return "exponential and power law fit alike"
    if heavier < 0:
        return "exponential fits better than a power law"
    if chance >= LEVEL:
        return "heavier than exponential; power law and lognormal fit alike"
    return f"heavier than exponential; {'power law' if better > 0 else 'lognormal'} fits better"
