"""TMI: the selection is exact, communities match a reference's, noise is noise and planted modules are seen."""

import importlib.util

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse

from bdh.errors import ParamsError
from bdh.golden import read
from bdh.metrics import communities, graph, tmi
from bdh.models.base import GraphFactors, build
from tests.shared import shared

SETTINGS = tmi.Settings(top_share=0.023, restarts=2, null_draws=5, method="louvain")


def model_factors(seed, **shape):
    shape = {"n_layer": 1, "n_embd": 32, "n_head": 2, "mlp_internal_dim_multiplier": 8} | shape
    return build("bdh", vocab_size=11, seed=seed, **shape).graph_factors()


def planted(strength, neurons=256, groups=8, D=32, seed=0):
    """Neurons of a group write along the direction that neurons of the same group read."""
    generator = np.random.default_rng(seed)
    group, directions = generator.integers(0, groups, neurons), generator.normal(size=(groups, D))
    decoder, encoder = (generator.normal(size=(neurons, D)) + strength * directions[group] for _ in range(2))
    encoder_HDN = torch.tensor(encoder, dtype=torch.float32).view(2, neurons // 2, D).transpose(1, 2)
    return GraphFactors(torch.tensor(decoder, dtype=torch.float32), encoder_HDN.contiguous())


def random_graph(seed=0, n=60, loops=True):
    weights = np.random.default_rng(seed).random((n, n)) ** 6
    weights = np.where(weights > 0.2, weights, 0.0)
    symmetric = weights + weights.T
    if not loops:
        np.fill_diagonal(symmetric, 0.0)
    return symmetric


def as_networkx(symmetric):
    """The same graph where a loop is stored once and counts twice."""
    return nx.from_numpy_array(symmetric - np.diag(np.diag(symmetric)) / 2)


@pytest.mark.parametrize("count", [1, 7, 400, 3000])
def test_tmi_largest_entries_equal_a_sort_of_the_dense_product(count, monkeypatch):
    monkeypatch.setattr(graph, "BLOCK", 13)
    factors = graph.factors_of(model_factors(0, mlp_internal_dim_multiplier=4))[0]
    rows, columns, values = graph.largest_entries(factors, count)
    dense = np.abs(factors.decoder @ factors.encoder)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == count
    np.testing.assert_allclose(values, dense[rows, columns], rtol=1e-5)
    np.testing.assert_allclose(np.sort(values)[::-1], np.sort(dense.ravel())[::-1][:count], rtol=1e-5)


def test_tmi_graph_equals_golden_effective_weights():
    vectors = read(shared("golden/official_small.npz"))
    weights = {name: torch.tensor(array) for name, array in vectors.parameters.items()}
    factors, scope = graph.factors_of(GraphFactors(weights["decoder"], weights["encoder"]))
    np.testing.assert_allclose(factors.decoder @ factors.encoder, vectors.arrays["w_eff"], rtol=1e-4, atol=1e-6)
    assert scope == "all neurons"


def test_tmi_undirected_sums_both_directions_and_drops_loops():
    entries = np.array([0, 1, 2, 2]), np.array([1, 0, 2, 0]), np.array([3.0, 4.0, 9.0, 5.0])
    expected = [[0, 7, 5], [7, 0, 0], [5, 0, 0]]
    np.testing.assert_array_equal(graph.undirected(entries, 3).toarray(), expected)


def test_tmi_reference_graph_equals_what_networkx_makes_of_a_non_symmetric_matrix():
    weights = np.random.default_rng(0).random((30, 30))
    weights[weights < 0.8] = 0.0
    rows, columns = np.nonzero(weights)
    ours = graph.undirected_as_reference((rows, columns, weights[rows, columns]), 30).toarray()
    theirs = nx.to_numpy_array(nx.from_numpy_array(weights))
    np.testing.assert_allclose(ours - np.diag(np.diag(ours)) / 2, theirs)


@pytest.mark.parametrize("loops", [True, False])
def test_tmi_modularity_equals_networkx(loops):
    symmetric = random_graph(loops=loops)
    labels = np.random.default_rng(1).integers(0, 5, 60)
    groups = [set(np.flatnonzero(labels == label).tolist()) for label in range(5)]
    expected = nx.community.modularity(as_networkx(symmetric), groups)
    assert communities.modularity(sparse.csr_matrix(symmetric), labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_tmi_louvain_is_as_good_as_networkx(seed):
    symmetric = random_graph(seed, n=120)
    matrix, reference = sparse.csr_matrix(symmetric), as_networkx(symmetric)
    ours = communities.best_modularity(matrix, 3, seed, "louvain")
    theirs = max(
        nx.community.modularity(reference, nx.community.louvain_communities(reference, seed=s)) for s in range(3)
    )
    assert ours > theirs - 0.01


def test_tmi_louvain_finds_disconnected_cliques_exactly():
    blocks = sparse.block_diag([np.ones((size, size)) - np.eye(size) for size in (5, 9, 4)]).tocsr()
    labels = communities.louvain(blocks, seed=0)
    assert [len(set(labels[a:b])) for a, b in ((0, 5), (5, 14), (14, 18))] == [1, 1, 1]
    assert len(set(labels)) == 3


def test_tmi_leiden_agrees_or_says_what_to_install(monkeypatch):
    matrix = sparse.csr_matrix(random_graph(2, n=120))
    if importlib.util.find_spec("igraph"):
        louvain = communities.best_modularity(matrix, 3, 0, "louvain")
        assert communities.best_modularity(matrix, 3, 0, "leiden") == pytest.approx(louvain, abs=0.02)
    monkeypatch.setitem(__import__("sys").modules, "igraph", None)
    with pytest.raises(ParamsError, match="hatchery\\[leiden\\]"):
        communities.best_modularity(matrix, 1, 0, "leiden")


def test_tmi_graph_without_edges_has_no_modularity():
    assert communities.best_modularity(sparse.csr_matrix((5, 5)), 2, 0, "louvain") == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_tmi_negative_control_untrained_weights_are_not_distinguishable(seed):
    row, _ = tmi.compute(model_factors(seed), [model_factors(100 + seed), model_factors(200 + seed)], SETTINGS)
    assert row["verdict"] == "not distinguishable from its null"
    assert abs(row["value"] - row["untrained_mean"]) < 0.03


def test_tmi_positive_control_planted_modules_are_found():
    row, curve = tmi.compute(planted(0.7), [model_factors(1), model_factors(2)], SETTINGS)
    assert row["verdict"] == "above its null"
    assert row["value"] > row["null_mean"] + 0.1
    assert row["z"] > 5
    assert row["p"] < 0.01
    assert row["reference_protocol"] > row["reference_protocol_untrained"] + 0.2
    assert len(row["heads"]) == 2
    assert all(head["value"] > head["null_mean"] for head in row["heads"])
    assert {point["series"] for point in curve} == {"trained", "permuted encoder", "untrained twin"}


def test_tmi_a_modular_entry_distribution_alone_is_not_enough():
    factors = graph.factors_of(planted(0.7))[0]
    dealt = factors.permuted(np.random.default_rng(9))
    encoder_HDN = torch.tensor(dealt.encoder).view(32, 2, 128).transpose(0, 1)
    row, _ = tmi.compute(GraphFactors(torch.tensor(dealt.decoder), encoder_HDN.contiguous()), [], SETTINGS)
    assert row["verdict"] == "not distinguishable from its null"


def test_tmi_large_graph_is_sampled_and_says_so(monkeypatch):
    monkeypatch.setattr(graph, "LARGEST_GRAPH", 100)
    row, _ = tmi.compute(model_factors(0), [], tmi.Settings(0.05, 1, 2, "louvain"))
    assert row["n"] == 100
    assert row["scope"] == "uniform sample of 100 of 256 neurons"
    assert row["entries"] == 500


def test_tmi_is_null_with_a_reason_without_a_graph():
    row, curve = tmi.compute(None, [], SETTINGS)
    assert row["value"] is None
    assert row["verdict"] == "not measurable"
    assert "no neuron graph" in row["reason"]
    assert curve == []
