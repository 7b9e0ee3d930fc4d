"""Every metric gives finite numbers, or "not measurable" with a reason, at every length and for degenerate input."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from bdh.frontier import degrees, mcl, memory, persistence, sec, sps, state_graph, tmi
from bdh.frontier.concepts import Labelled
from bdh.frontier.rows import finite_points, finite_row, metric_row, point, save
from bdh.frontier.survey import Activations, Reading, Updates
from bdh.hebbian.coactivation import Coactivation
from bdh.intervals import FEWEST_UNITS, against_null, percentiles, ratio_interval
from bdh.models.base import GraphFactors
from benchmarks.control_graphs import Follower, settings
from benchmarks.control_text import text
from tests.support.held_out_text import held_out, small_bdh

REPORTED = (1215, 2265, 2733, 4095, 8188, 8189, 8190, 8191, 8192)
SHORT = (1, 2, 3, 7, 8, 9, 63, 64, 65, 66, 127, 1022, 1023, 1024, 1025)
MANY = sorted({*SHORT, *REPORTED, *range(10, 130, 3), *np.random.default_rng(0).integers(130, 9000, 60).tolist()})
SERIES = {
    "noise": lambda P, rng: rng.normal(size=(3, P)),
    "zeros": lambda P, rng: np.zeros((3, P)),
    "constant": lambda P, rng: np.full((3, P), 0.1),
    "a line": lambda P, rng: np.tile(np.arange(P, dtype=float), (3, 1)),
    "one spike": lambda P, rng: np.eye(1, P, P // 2).repeat(3, axis=0),
    "one series of three": lambda P, rng: np.stack([rng.normal(size=P), np.zeros(P), np.ones(P)]),
    "tiny": lambda P, rng: 1e-140 * rng.normal(size=(3, P)),
}


@pytest.fixture(autouse=True)
def _no_hidden_nan():
    """A division by zero that a later line happens to hide is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def check(row, points=()):
    """A row holds finite numbers alone and a reason exactly where it has no value; so do the points of curves."""
    json.dumps([row, list(points)], allow_nan=False)
    assert (row["value"] is None) == bool(row.get("reason")) == (row["verdict"] == "not measurable")
    assert row["value"] is not None or not points
    assert finite_row(row) is row
    return row


def old_scales(length):
    """Window lengths as they were chosen before they were kept inside an eighth of the series."""
    octaves = math.log2(length / 64)
    return np.unique(np.round(8 * 2.0 ** np.linspace(0, octaves, round(2 * octaves) + 1)).astype(int))


def test_lengths_scales_of_dfa_fit_into_an_eighth_and_are_the_old_ones_wherever_those_fitted():
    beyond = 0
    for length in range(1, 9001):
        found = persistence.scales(length)
        assert (np.diff(found) > 0).all()
        assert not found.size or found[-1] <= length // 8, length
        if length >= 64 and old_scales(length)[-1] <= length // 8:
            np.testing.assert_array_equal(found, old_scales(length))
        beyond += length >= 1024 and old_scales(length)[-1] > length // 8
    assert 0.4 < beyond / 7977 < 0.5, "the share of lengths at which the largest scale reached past its eighth"


@pytest.mark.parametrize("kind", SERIES)
def test_lengths_persistence_is_finite_or_none(kind):
    generator = np.random.default_rng(1)
    for length in MANY:
        series = SERIES[kind](length, generator)
        value, interval = persistence.dfa(series)
        slow = memory.hurst(series)
        lags = np.arange(1, 65)
        correlation = persistence.autocorrelation(series, lags)
        assert np.isfinite(correlation).all()
        assert not correlation[lags >= length].any()
        found = [value, *interval, slow[0], *slow[1], persistence.half_life(lags, correlation)]
        found += [*persistence.compare_laws(lags, correlation, 1 / math.sqrt(series.size)).values()]
        assert all(math.isfinite(number) for number in found if isinstance(number, float)), (length, found)
        if kind == "noise":
            assert (value is not None) == (persistence.scales(length).size > 1)
            assert length < 1024 or interval[0] < value < interval[1]
            assert (slow[0] is not None) == (memory.slow(length) > 1)
        if kind in ("zeros", "constant"):
            assert value is None or kind == "constant"
            assert slow[0] is None or kind == "constant"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64])
def test_lengths_laws_of_decay_of_few_lags_or_far_ones_are_finite(count):
    for start in (1, 5000):
        lags = np.arange(start, start + count)
        found = persistence.compare_laws(lags, np.full(count, 0.5), 0.01)
        assert all(math.isfinite(number) for number in found.values() if isinstance(number, float))
        assert count >= 3 or found["law"] == "undecided"


@pytest.mark.parametrize("updates", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize("damping", [1e-4, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_lengths_reference_protocol_of_sps_is_finite_or_none(updates, damping, fill):
    codes = np.full((updates, 1, 2, 5), fill, dtype=np.float32)
    state = Coactivation(codes, 100 * np.arange(1, updates + 1), np.zeros(updates, int), damping, 0.005, 100)
    for found in (persistence.reference_protocol(state), persistence.damping_alone(state)):
        assert found["hurst"] is None or math.isfinite(found["hurst"])
        assert np.isfinite(found["similarity"]).all()
        assert updates >= 8 or found["hurst"] is None


def text_of(length, documents=3, window=64):
    """Documents of about equal length that have `length` scored tokens together; one where there are fewer tokens."""
    parts = [part.size for part in np.array_split(np.arange(length), min(documents, length))]
    found = held_out(lengths=tuple(part + 1 for part in parts), window=window)
    assert found.scored == length
    return found


@pytest.mark.parametrize("length", [*SHORT, *REPORTED])
def test_lengths_sps_is_a_number_from_1024_tokens_on(length):
    generator, held = np.random.default_rng(length), text_of(length)
    own, twin = (Updates(generator.normal(size=(8, length))) for _ in range(2))
    dead = Updates(np.zeros((8, length)))
    twins = [found for one in (twin, dead) if (found := sps.numbers(one, held))]
    row, points = sps.measure(own, twins, held, 0.99, draws=3)
    check(row, points)
    assert (row["value"] is not None) == (length >= sps.FEWEST)
    if row["value"] is not None:
        assert row["twins"] == 1, "a twin without an exponent is no twin"
        assert [one["draws"] for one in row["nulls"].values()] == [3, 3, 3]
        assert row["half_life"]["tokens"] is not None
        assert {"innovations", "state"} <= {one["series"] for one in points}


@pytest.mark.parametrize("length", [1024, 1215, 8191])
@pytest.mark.parametrize("fill", [0.0, 0.1, 1e300, math.inf, math.nan])
def test_lengths_sps_of_updates_that_never_vary_is_not_measurable(length, fill):
    """0.1 in particular: less its own mean it is not zero but noise of rounding, which had an exponent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = sps.measure(Updates(np.full((8, length), fill)), [], text_of(length), 0.99, draws=3)
    assert check(*found)["value"] is None


@pytest.mark.parametrize("damping", [1e-12, 1e-4, 0.5, 1.0])
def test_lengths_sps_has_a_half_life_at_every_damping(damping):
    own = Updates(np.random.default_rng(0).normal(size=(8, 1215)))
    row, points = sps.measure(own, [], text_of(1215), damping, draws=3)
    check(row, points)
    assert (row["half_life"]["tokens"] is None) == (damping == 1.0)


def reading_of(held, kind, generator):
    density = {
        "noise": generator.random((2, held.scored)),
        "silent": np.zeros((2, held.scored)),
        "by token": np.stack([held.inputs, held.inputs % 7]) / 64,
        "sure": generator.random((2, held.scored)),
    }[kind].astype(np.float32)
    nats = np.full(held.scored, 0.7) if kind == "sure" else generator.exponential(size=held.scored)
    return Reading("x_sparse", density, nats, density[0])


@pytest.mark.parametrize("kind", ["noise", "silent", "by token", "sure"])
@pytest.mark.parametrize("documents", [1, 9])
def test_lengths_sec_is_a_number_or_has_a_reason(kind, documents):
    generator = np.random.default_rng(2)
    for length in (*SHORT, 1215, 2733, 8191):
        held = text_of(length, documents)
        own, twin = reading_of(held, kind, generator), reading_of(held, "silent", generator)
        twins = [found] if (found := sec.numbers(twin, held)) else []
        row = check(*sec.measure(own, twins, held))
        assert twins == [], "a silent twin has no correlation"
        assert (row["value"] is not None) == (kind == "noise" and documents > 1 and length > 600), (length, row)


def test_lengths_sec_of_tokens_that_all_differ_is_not_measurable():
    """No pair of tokens comes twice: nothing can be compared."""
    held = text_of(3000, 9)
    held.inputs[:] = np.arange(3000)
    row = check(*sec.measure(reading_of(held, "noise", np.random.default_rng(3)), [], held))
    assert "0 tokens whose pair" in row["reason"]


def labels_of(tokens, documents, share, generator):
    document = np.sort(generator.integers(0, documents, tokens))
    return Labelled(
        names=["a", "b"],
        concepts=generator.random((tokens, 2)) < share,
        document=document,
        window=np.arange(tokens) // 16,
        token=generator.integers(0, 20, tokens),
        frequency=generator.integers(0, 3, tokens),
        of_documents=[False, False],
    )


@pytest.mark.parametrize("documents", [1, 2, 12])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_lengths_mcl_is_a_number_or_has_a_reason(documents, share):
    generator = np.random.default_rng(4)
    for tokens in (0, 1, 2, 511, 512, 1215):
        labels = labels_of(tokens, documents, share, generator)
        noise, dead, same = (
            Activations("x_sparse", values.astype(np.float32))
            for values in (generator.random((24, tokens)), np.zeros((24, tokens)), np.ones((24, tokens)))
        )
        twins = [found for one in (dead, noise) if (found := mcl.numbers(one, labels))]
        found = [check(*mcl.measure(own, twins, labels))["value"] is not None for own in (noise, same)]
        assert found == [tokens >= 512 and share == 0.3] * 2, (tokens, found)
        assert check(*mcl.measure(dead, twins, labels))["value"] is None


def factors_of(decoder, encoder):
    return GraphFactors(torch.tensor(decoder, dtype=torch.float32), torch.tensor(encoder, dtype=torch.float32))


@pytest.mark.parametrize("kind", ["zeros", "negative", "equal", "tiny", "one neuron", "nan"])
def test_lengths_graph_metrics_of_degenerate_weights_have_numbers_or_reasons(kind):
    generator = np.random.default_rng(5)
    decoder, encoder = generator.normal(size=(128, 4)), generator.normal(size=(2, 4, 64))
    if kind == "one neuron":
        decoder[1:] = 0.0
    elif kind == "negative":
        decoder, encoder = np.ones((128, 4)), -np.ones((2, 4, 64))
    else:
        decoder = decoder * {"zeros": 0.0, "equal": 0.0, "tiny": 1e-18, "nan": math.nan}[kind] + (kind == "equal")
        encoder = np.ones_like(encoder) if kind == "equal" else encoder
    graph, twin = factors_of(decoder, encoder), factors_of(generator.normal(size=(128, 4)), encoder)
    with np.errstate(invalid="ignore"):
        twins = [tmi.numbers(one, settings(graph_nulls=2), number) for number, one in enumerate((twin, graph))]
        row = check(*tmi.measure(graph, twins, settings(graph_nulls=2)))
        assert (row["value"] is None) == (kind in ("zeros", "negative", "one neuron", "nan"))
        for side in degrees.degrees_of(tmi.excitatory_edges(graph, 0.03)).values():
            check(degrees.row(side, []))


DEGREES = {
    "none": np.zeros(0, dtype=int),
    "one": np.ones(1, dtype=int),
    "all alike": np.full(500, 7),
    "two values": np.repeat([1, 2], 100),
    "three values": np.repeat([1, 2, 3], [400, 2, 1]),
    "one giant": np.append(np.ones(200, dtype=int), [2, 10**6]),
    "evenly spread": np.arange(1, 400),
    "squares": np.arange(1, 200) ** 2,
    "few": np.random.default_rng(0).zipf(2.0, 49),
    "enough": np.random.default_rng(0).zipf(2.0, 60),
}


@pytest.mark.parametrize("kind", DEGREES)
def test_lengths_degrees_of_any_shape_have_numbers_or_reasons(kind):
    twins = [found for one in ("all alike", "enough") if (found := degrees.numbers(DEGREES[one]))]
    check(degrees.row(DEGREES[kind], twins))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 512, 513])
def test_lengths_state_graph_has_a_number_or_a_reason(length):
    model = small_bdh()
    row = check(*state_graph.measure(model, [], held_out(lengths=(length + 1,) * 2), "cpu", settings(top_share=0.1)))
    assert (row["value"] is None) == (length < 64), row.get("reason")


def test_lengths_state_graph_of_an_empty_state_is_not_measurable():
    model = Follower(0)
    model.noted = torch.zeros_like(model.noted)
    held = text(lengths=(128, 128), vocab=64)
    row = check(*state_graph.measure(model, [], held, "cpu", settings(top_share=0.05, graph_nulls=2)))
    assert "leaves no synapses" in row["reason"]


@pytest.mark.parametrize("units", [*range(12), 100])
@pytest.mark.parametrize("below", [0.0, 1.0])
def test_lengths_intervals_are_finite_or_none(units, below):
    found = ratio_interval(np.arange(units, dtype=float), np.full(units, below), resamplings=20)
    assert (found == (None, None)) == (units < FEWEST_UNITS or below == 0.0)
    draws = np.full(units, 0.1)
    stands = against_null(0.2, draws)
    assert stands["z"] is None, "draws that are all the same have no spread, whatever their mean rounds to"
    assert percentiles(np.append(draws, [math.nan, math.inf])) == ((0.1, 0.1) if units >= 2 else (None, None))


def test_lengths_a_number_that_is_not_finite_makes_its_row_not_measurable():
    row = metric_row(
        1.0, nulls={}, interval=(0.0, 2.0), n=1, untrained=[], reference=None, reference_untrained=[],
        layers=[{"a": 1.0}, {"a": np.float32("nan")}],
    )  # fmt: skip
    assert finite_row(row)["reason"] == "layers/1/a is not a finite number"
    assert finite_row(row)["verdict"] == "not measurable"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_lengths_curves_never_hold_nan(bad, tmp_path):
    points = [point("tmi", 1.0, 2.0, "a"), point("tmi", 2.0, bad, "a"), point("tmi", bad, 1.0, "a")]
    with pytest.raises(ValueError, match="tmi, a"):
        save(tmp_path / "curves.csv", points)
    assert not list(tmp_path.iterdir())
    save(tmp_path / "curves.csv", finite_points(points))
    assert (tmp_path / "curves.csv").read_text() == "metric,x,y,series\ntmi,1.0,2.0,a\n"
