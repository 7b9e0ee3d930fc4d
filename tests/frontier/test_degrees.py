"""Degrees and the state graph: exponential tails are not called heavy, planted ones are; states follow the text."""

import numpy as np
import pytest

from bdh.frontier import degrees, state_graph
from bdh.frontier.graph import Edges
from benchmarks.control_graphs import Follower, degrees_of, settings, state_of
from benchmarks.control_text import text
from tests.support.held_out_text import held_out, small_bdh


def test_degrees_count_edges_in_and_out():
    edges = Edges(np.array([0, 0, 2]), np.array([1, 2, 1]), np.ones(3), 4)
    found = degrees.degrees_of([edges, edges])
    assert found["in"].tolist() == [2, 0, 1, 0] * 2
    assert found["out"].tolist() == [0, 2, 1, 0] * 2


def test_degrees_distribution_counts_neurons_of_a_degree_or_more():
    points = degrees.tail(np.array([0, 1, 1, 2, 5, 5, 5, 9]), "in, trained")
    assert [(one["x"], one["y"]) for one in points] == [(1, 7 / 8), (2, 5 / 8), (5, 4 / 8), (9, 1 / 8)]
    many = degrees.tail(np.random.default_rng(0).zipf(2.0, 3000), "in, trained")
    assert len(many) <= degrees.POINTS
    assert np.all(np.diff([one["y"] for one in many]) < 0)
    assert degrees.tail(np.zeros(5, dtype=int), "in, trained") == []


def test_degrees_exponent_of_a_power_law_is_found():
    row = degrees.row(np.random.default_rng(0).zipf(2.5, 3000), [])
    assert row["alpha"] == pytest.approx(2.5, abs=0.1)
    assert row["alpha_ci_low"] < 2.5 < row["alpha_ci_high"]
    assert row["value"] > 0
    assert row["law"].startswith("heavier than exponential")


def test_degrees_of_an_exponential_are_not_called_heavy():
    row = degrees_of(0, "geometric")
    assert row["verdict"] != "above its null"
    assert "heavier" not in row["law"]


def test_degrees_that_twins_show_as_well_are_not_distinguishable():
    generator = np.random.default_rng(0)
    row = degrees.row(generator.zipf(2.2, 3000), [degrees.numbers(generator.zipf(2.2, 3000)) for _ in range(3)])
    assert row["nulls"]["exponential tail"]["p"] < 0.05
    assert row["verdict"] == "not distinguishable from its null"


@pytest.mark.parametrize("few", [np.ones(500, dtype=int), np.arange(20), np.zeros(80, dtype=int)])
def test_degrees_too_few_or_all_alike_are_not_measurable(few):
    row = degrees.row(few, [])
    assert row["verdict"] == "not measurable"
    assert row["reason"]


def test_state_graph_of_topics_is_found():
    row = state_of(0, topics=True)
    assert row["verdict"] == "above its null"
    assert row["value"] > row["null_mean"] + 0.1
    assert set(row["nulls"]) == {"permuted neurons", "tokens in random order, read again"}
    assert row["streams"] == 3


def test_state_graph_is_decoder_times_the_state_of_the_last_layer():
    model = small_bdh()
    streams = state_graph.Streams(np.random.default_rng(0).integers(0, 41, (2, 50)))
    graphs = state_graph.state_graphs(model, streams, "cpu")
    import torch

    with torch.no_grad():
        rho = model.eval()(torch.from_numpy(streams.tokens), state=model.initial_state(2)).state["rho"]
    decoder = model.decoder.detach().view(2, 32, 16)
    assert [len(heads) for heads in graphs] == [2, 2]
    expected = decoder[1] @ rho[1, -1, 1].T
    np.testing.assert_allclose(graphs[1][1].decoder @ graphs[1][1].encoder, expected, rtol=1e-4, atol=1e-4)


def test_state_graph_is_null_with_a_reason():
    short, _ = state_graph.measure(small_bdh(), [], held_out(lengths=(9, 9)), "cpu", settings())
    assert "fewer than 2 documents" in short["reason"]
    few, _ = state_graph.measure(Follower(0, vocab=16), [], text(lengths=(128, 128), vocab=16), "cpu", settings())
    assert "too few" in few["reason"]
