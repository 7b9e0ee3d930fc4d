"""The coactivation state from its c vectors equals the matrices that it never makes."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from bdh.golden.official import coactivation, official_model
from bdh.golden.vectors import read
from bdh.hebbian.coactivation import Coactivation, cosine, inner_products, load, pearson, save, sums
from bdh.project.errors import RunError
from tests.support.shared import shared


def random_state(updates=9, layers=2, heads=3, neurons=5, damping=0.9, every=20, seed=0):
    generator = np.random.default_rng(seed)
    codes = np.maximum(generator.normal(size=(updates, layers, heads, neurons)), 0)
    tokens = np.cumsum(generator.integers(5, 40, updates))
    return Coactivation(codes, tokens, np.zeros(updates, dtype=int), damping, 0.005, every)


def materialised(state):
    """Every sigma after every update, U,L,H,N,N."""
    sigma, found = 0.0, []
    for code in state.codes:
        sigma = state.damping * sigma + state.eta * np.einsum("lhi,lhj->lhij", code, code)
        found.append(sigma.copy())
    return np.stack(found)


@pytest.mark.parametrize("damping", [0.5, 0.99, 1.0])
def test_coactivation_equals_its_matrices(damping):
    state = random_state(damping=damping)
    every = np.arange(len(state.codes))
    flat = materialised(state).reshape(len(every), -1)
    products, totals = inner_products(state, every), sums(state, every)
    np.testing.assert_allclose(products, flat @ flat.T, rtol=1e-12)
    np.testing.assert_allclose(totals, flat.sum(1), rtol=1e-12)
    np.testing.assert_allclose(pearson(products, totals, state.entries), np.corrcoef(flat), rtol=1e-10)
    norms = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(cosine(products), flat @ flat.T / np.outer(norms, norms), rtol=1e-12)


def test_coactivation_snapshots_are_taken_once_per_passed_multiple():
    state = random_state(updates=5)
    state = Coactivation(state.codes, np.array([7, 20, 31, 75, 79]), state.document, 0.9, 0.005, 20)
    assert state.snapshots().tolist() == [1, 3]


def test_coactivation_silent_neurons_are_similar_to_nothing():
    state = random_state()
    silent = Coactivation(state.codes * 0, state.tokens, state.document, 0.9, 0.005, 20)
    every = np.arange(len(state.codes))
    assert not cosine(inner_products(silent, every)).any()
    assert not pearson(inner_products(silent, every), sums(silent, every), silent.entries).any()


def test_coactivation_survives_its_file(tmp_path):
    state = random_state()
    path = tmp_path / "deep" / "coactivation.safetensors"
    save(path, state, window=64)
    again, window = load(path)
    assert window == 64
    np.testing.assert_array_equal(again.codes, state.codes.astype(np.float32))
    np.testing.assert_array_equal(again.tokens, state.tokens)
    assert (again.damping, again.eta, again.snapshot_every) == (state.damping, state.eta, state.snapshot_every)
    save(path, None, window=64)
    assert load(path) == (None, 64)


def test_coactivation_missing_or_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "coactivation.safetensors"
    with pytest.raises(RunError, match="is missing"):
        load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError, match="is damaged"):
        load(path)
    save_file({"codes": np.zeros((1, 1, 1, 1))}, path, metadata={"rule": '{"window": 64, "damping": 0.9}'})
    with pytest.raises(RunError, match="coactivation.safetensors is damaged"):
        load(path)


@pytest.mark.parametrize("name", ["official_small", "official_deep"])
def test_coactivation_golden(name):
    vectors = read(shared(f"golden/{name}.npz"))
    errors = coactivation(official_model(vectors), vectors)
    assert set(errors) == {"sigma_after3_layer0", "sigma_inner_products", "sigma_sums", "sigma_pearson"}
    assert max(errors.values()) < 1e-12
