"""TMI: the selection is exact, communities match a reference's, noise is noise and planted modules are seen."""

import importlib.util

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import normalized_mutual_info_score

from bdh.frontier import communities, graph, tmi
from bdh.golden.vectors import read
from bdh.models.base import GraphFactors, build
from bdh.project.errors import ParamsError
from benchmarks.control_graphs import settings
from tests.support.shared import shared

SETTINGS = settings(top_share=0.023, restarts=2)


def model_factors(seed, **shape):
    shape = {"n_layer": 1, "n_embd": 32, "n_head": 2, "mlp_internal_dim_multiplier": 8} | shape
    return build("bdh", vocab_size=11, seed=seed, **shape).graph_factors()


def twin_numbers(*seeds):
    return [tmi.numbers(model_factors(seed), SETTINGS, number) for number, seed in enumerate(seeds)]


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


@pytest.mark.parametrize("sign", ["excitatory", "inhibitory", "magnitude"])
@pytest.mark.parametrize("count", [1, 7, 400, 3000])
@pytest.mark.parametrize("whole", [2**22, 0], ids=["one pass", "sampled bound"])
def test_tmi_largest_entries_equal_a_sort_of_the_dense_product(count, sign, whole, monkeypatch):
    monkeypatch.setattr(graph, "BLOCK_BYTES", 4 * 128 * 13)
    monkeypatch.setattr(graph, "WHOLE", whole)
    factors = graph.whole_graph(model_factors(0, mlp_internal_dim_multiplier=4))
    edges = graph.largest_entries(factors, count, sign)
    dense = {"excitatory": 1, "inhibitory": -1}.get(sign, 1) * (factors.decoder @ factors.encoder)
    dense = np.abs(dense) if sign == "magnitude" else dense
    np.fill_diagonal(dense, 0.0)
    assert len(set(zip(edges.rows.tolist(), edges.columns.tolist(), strict=True))) == count
    np.testing.assert_allclose(edges.weights, dense[edges.rows, edges.columns], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(np.sort(edges.weights)[::-1], np.sort(dense.ravel())[::-1][:count], rtol=1e-4)


def test_tmi_largest_entries_survive_ties_and_a_bound_that_is_too_high(monkeypatch):
    ones = graph.Factors(np.ones((40, 2), np.float32), np.ones((2, 40), np.float32))
    assert graph.largest_entries(ones, 100, "excitatory").weights.tolist() == [2.0] * 100
    assert graph.largest_entries(ones, 100, "inhibitory").weights.size == 0
    monkeypatch.setattr(graph, "WHOLE", 0)
    monkeypatch.setattr(graph, "_lower_bound", lambda *arguments: 1e6)
    assert graph.largest_entries(ones, 100, "excitatory").weights.size == 100


def test_tmi_blocks_hold_no_dense_matrix(monkeypatch):
    monkeypatch.setattr(graph, "WHOLE", 0)
    largest = 0

    class Watched(np.ndarray):
        def __array_finalize__(self, source):
            nonlocal largest
            largest = max(largest, self.nbytes)

    monkeypatch.setattr(graph, "BLOCK_BYTES", 4 * 600 * 10)
    generator = np.random.default_rng(0)
    decoder, encoder = (generator.normal(size=shape).astype(np.float32) for shape in ((600, 8), (8, 600)))
    graph.largest_entries(graph.Factors(decoder.view(Watched), encoder.view(Watched)), 500, "excitatory")
    assert 0 < largest < 4 * 600 * 600 / 2


def test_tmi_heads_are_the_blocks_on_the_diagonal_of_the_whole_graph():
    model = model_factors(0)
    whole, heads = graph.whole_graph(model), graph.head_blocks(model)
    dense = whole.decoder @ whole.encoder
    assert len(heads) == 2
    for head, block in enumerate(heads):
        part = slice(128 * head, 128 * (head + 1))
        np.testing.assert_allclose(block.decoder @ block.encoder, dense[part, part], rtol=1e-5, atol=1e-8)


def test_tmi_graph_equals_golden_effective_weights():
    vectors = read(shared("golden/official_small.npz"))
    weights = {name: torch.tensor(array) for name, array in vectors.parameters.items()}
    factors = graph.whole_graph(GraphFactors(weights["decoder"], weights["encoder"]))
    np.testing.assert_allclose(factors.decoder @ factors.encoder, vectors.arrays["w_eff"], rtol=1e-4, atol=1e-6)


def test_tmi_undirected_sums_both_directions_and_directed_goes_from_column_to_row():
    edges = graph.Edges(np.array([0, 1, 2]), np.array([1, 0, 0]), np.array([3.0, 4.0, 5.0]), 3)
    np.testing.assert_array_equal(communities.undirected(edges).toarray(), [[0, 7, 5], [7, 0, 0], [5, 0, 0]])
    np.testing.assert_array_equal(communities.directed(edges).toarray(), [[0, 4, 5], [3, 0, 0], [0, 0, 0]])


def test_tmi_reference_graph_equals_what_networkx_makes_of_a_non_symmetric_matrix():
    weights = np.random.default_rng(0).random((30, 30))
    weights[weights < 0.8] = 0.0
    rows, columns = np.nonzero(weights)
    edges = graph.Edges(rows, columns, weights[rows, columns], 30)
    ours = communities.undirected_as_reference(edges).toarray()
    theirs = nx.to_numpy_array(nx.from_numpy_array(weights))
    np.testing.assert_allclose(ours - np.diag(np.diag(ours)) / 2, theirs)


def test_tmi_configuration_model_keeps_degrees_and_makes_no_loop_and_no_double_edge():
    edges = graph.largest_entries(graph.head_blocks(model_factors(0))[0], 700, "excitatory")
    moved = graph.rewired(edges, np.random.default_rng(0))
    for side in ("rows", "columns"):
        np.testing.assert_array_equal(np.bincount(getattr(moved, side)), np.bincount(getattr(edges, side)))
    assert len(set(zip(moved.rows.tolist(), moved.columns.tolist(), strict=True))) == 700
    assert (moved.rows != moved.columns).all()
    assert (moved.rows != edges.rows).mean() > 0.8


def test_tmi_directed_modularity_equals_networkx():
    weights = random_graph(3, loops=False)
    weights[np.triu_indices(60)] = 0.0
    labels = np.random.default_rng(1).integers(0, 4, 60)
    groups = [set(np.flatnonzero(labels == label).tolist()) for label in range(4)]
    network = nx.from_numpy_array(weights, create_using=nx.DiGraph)
    ours = communities.modularity(sparse.csr_matrix(weights), labels)
    assert ours == pytest.approx(nx.community.modularity(network, groups), abs=1e-9)


@pytest.mark.parametrize(("labels", "expected"), [((1, 1, 0, 0), 1.0), ((0, 1, 0, 1), 0.0), ((0, 0, 0, 0), 0.0)])
def test_tmi_agreement_of_partitions(labels, expected):
    assert communities.agreement(np.array([0, 0, 1, 1]), np.array(labels)) == pytest.approx(expected, abs=1e-9)


def test_tmi_agreement_equals_scikit_learn():
    generator = np.random.default_rng(0)
    for groups in (1, 2, 5, 40):
        a, b = generator.integers(0, groups, (2, 300))
        b = np.where(generator.random(300) < 0.5, a, b)
        assert communities.agreement(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)


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
    ours = communities.best_partition(matrix, 3, seed, "louvain").modularity
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
        louvain = communities.best_partition(matrix, 3, 0, "louvain").modularity
        assert communities.best_partition(matrix, 3, 0, "leiden").modularity == pytest.approx(louvain, abs=0.02)
    monkeypatch.setitem(__import__("sys").modules, "igraph", None)
    with pytest.raises(ParamsError, match="hatchery\\[leiden\\]"):
        communities.best_partition(matrix, 1, 0, "leiden")


def test_tmi_graph_without_edges_has_no_modularity():
    assert communities.best_partition(sparse.csr_matrix((5, 5)), 2, 0, "louvain").modularity == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_tmi_negative_control_untrained_weights_are_not_distinguishable(seed):
    row, _ = tmi.measure(model_factors(seed), twin_numbers(100 + seed, 200 + seed), SETTINGS)
    assert row["verdict"] == "not distinguishable from its null"
    assert abs(row["value"] - row["untrained_mean"]) < 0.05


def test_tmi_positive_control_planted_modules_are_found():
    row, curve = tmi.measure(planted(0.7), twin_numbers(1, 2), SETTINGS)
    assert row["verdict"] == "above its null"
    assert row["value"] > row["null_mean"] + 0.1
    assert row["z"] > 5
    assert row["p"] < 0.01
    assert row["reference_protocol"] > row["reference_protocol_untrained"] + 0.2
    assert len(row["heads"]) == 2
    assert all(head["value"] > head["null_mean"] for head in row["heads"])
    assert {point["series"] for point in curve} == {"trained", "permuted encoder"}


def test_tmi_drawing_keeps_the_communities_of_the_strongest_edges():
    """Planted groups stay together in what the page draws of a graph; nothing in it points outside."""
    drawn = tmi.measure(planted(0.9), twin_numbers(1), SETTINGS)[0]["drawing"]
    size = len(drawn["neurons"])
    assert size == len(drawn["communities"]) == tmi.DRAWN_NEURONS
    assert drawn["of"][0] == 128
    pairs = np.array(drawn["edges"]).reshape(-1, 2)
    assert 0 < len(pairs) <= tmi.DRAWN_EDGES
    assert 0 <= pairs.min() <= pairs.max() < size
    group = np.array(drawn["communities"])
    assert (group[pairs[:, 0]] == group[pairs[:, 1]]).mean() > 0.8
    assert min(drawn["communities"]) == 0


def test_tmi_row_holds_directed_inhibitory_and_stability_beside_the_same_nulls():
    row, _ = tmi.measure(planted(0.7), twin_numbers(1, 2), SETTINGS)
    assert row["excess"] == pytest.approx(row["value"] - row["null_mean"])
    assert set(row["nulls"]) == {tmi.PERMUTED, tmi.ALIGNED, tmi.GAUSSIAN, tmi.REWIRED}
    assert row["directed"]["p"] < 0.05
    assert row["directed"]["value"] > row["directed"]["mean"]
    assert row["inhibitory"]["value"] < row["value"]
    assert row["stability"] > row["stability_null"]
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert all(head["p"] < 0.05 for head in row["heads"])


def test_tmi_too_small_a_graph_is_not_measurable():
    row, curve = tmi.measure(model_factors(0, mlp_internal_dim_multiplier=1), [], SETTINGS)
    assert row["verdict"] == "not measurable"
    assert "16 neurons per head" in row["reason"]
    assert curve == []


def test_tmi_is_null_with_a_reason_without_a_graph():
    row, curve = tmi.measure(None, [], SETTINGS)
    assert row["value"] is None
    assert row["verdict"] == "not measurable"
    assert "no neuron graph" in row["reason"]
    assert curve == []


def directions(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_tmi_aligned_deal_keeps_norms_alignment_and_spectra_and_no_pair_of_neurons():
    """A null without the angle between what a neuron reads and writes called noise modular in 68 % of cases."""
    generator = np.random.default_rng(0)
    read = generator.normal(size=(600, 16)) * np.geomspace(1, 0.1, 16) * generator.lognormal(size=(600, 1))
    write = 0.5 * read + generator.normal(size=(600, 16)) * np.geomspace(1, 0.1, 16)
    before = graph.Factors(write, read.T)
    after = before.aligned(generator)
    for mine, theirs in ((after.decoder, write), (after.encoder.T, read)):
        np.testing.assert_allclose(np.linalg.norm(mine, axis=1), np.linalg.norm(theirs, axis=1), rtol=1e-5)
        spectra = [np.linalg.svd(directions(part), compute_uv=False) for part in (mine, theirs)]
        assert np.corrcoef(*spectra)[0, 1] > 0.95
        assert spectra[0][0] / spectra[0][-1] > 4, "that of independent directions is 1.4"
    cosines = [(directions(f.decoder) * directions(f.encoder.T)).sum(1) for f in (before, after)]
    np.testing.assert_allclose(cosines[0], cosines[1], atol=1e-5)
    assert cosines[0].std() > 0.1
    assert abs((directions(after.encoder.T) * directions(read)).sum(1).mean()) < 0.1


@pytest.mark.parametrize("dead", ["decoder", "encoder", "both"])
def test_tmi_aligned_deal_of_silent_and_of_parallel_neurons_is_finite(dead):
    ones = np.ones((64, 4), np.float32)
    silent = np.where(np.arange(64)[:, None] < 8, 0.0, ones)
    factors = graph.Factors(ones if dead == "encoder" else silent, (ones if dead == "decoder" else silent).T)
    after = factors.aligned(np.random.default_rng(0))
    assert np.isfinite(after.decoder).all()
    assert np.isfinite(after.encoder).all()


def dense_graph(seed, n=1500):
    """Large and dense enough for the way over a part of the edges, with eight weak groups."""
    generator = np.random.default_rng(seed)
    group, to = generator.integers(0, 8, n), generator.normal(size=(8, 64))
    decoder, encoder = (generator.normal(size=(n, 64)) + 0.3 * to[group] for _ in range(2))
    factors = graph.Factors(decoder.astype(np.float32), encoder.T.astype(np.float32))
    return communities.undirected(graph.largest_entries(factors, round(0.14 * n * n), "excitatory"))


@pytest.mark.parametrize("seed", range(3))
def test_tmi_communities_of_a_large_dense_graph_are_as_good_as_by_louvain_alone(seed):
    matrix = dense_graph(seed)
    assert matrix.nnz >= max(communities.LARGE, communities.DENSE * matrix.shape[0])
    ours, alone = communities.louvain(matrix, seed), communities.whole_louvain(matrix, seed)
    assert communities.modularity(matrix, ours) > 0.98 * communities.modularity(matrix, alone)
    np.testing.assert_array_equal(ours, communities.louvain(matrix, seed))


def test_tmi_part_of_a_graph_is_symmetric_and_an_eighth(monkeypatch):
    matrix = dense_graph(0)
    part = communities.part_of(matrix, 3)
    assert (part != part.T).nnz == 0
    assert 0.12 < part.nnz / matrix.nnz < 0.13
    assert (part != communities.part_of(matrix, 4)).nnz > 0
    monkeypatch.setattr(communities, "LARGE", 1000)
    assert (part != communities.part_of(matrix, 3)).nnz == 0, "whatever the size of the pieces"


def test_tmi_improvement_moves_nodes_and_merges_halves_of_a_group():
    """Two groups cut into four, one node in the wrong one; loops are heavy and must not hold a node where it is."""
    weights = np.kron(np.eye(2), np.ones((20, 20))) + 0.1
    weights += np.diag(np.full(40, 3.0))
    labels = np.repeat([0, 1, 2, 3], 10)
    labels[3] = 2
    found = communities.Improvement(sparse.csr_matrix(weights.astype(np.float32)), 0).improved(labels)
    assert communities.agreement(found, np.repeat([0, 1], 20)) == pytest.approx(1.0)


def test_tmi_number_of_processes_changes_no_number():
    twins = twin_numbers(1, 2)
    rows = [tmi.measure(planted(0.4), twins, SETTINGS.model_copy(update={"jobs": jobs})) for jobs in (1, 3)]
    assert rows[0] == rows[1]
