"""The Hebbian block model: golden vectors, one function in three forms, positions that continue, statistics."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bdh.golden.hebbian_block import golden_model
from bdh.golden.vectors import check_file, read, relative_error
from bdh.models.base import build
from bdh.models.hebbian_block import TINY, Model
from bdh.nn.probe import listening
from bdh.nn.rope import half_rotation, rotate_halves
from bdh.project.errors import ParamsError
from tests.support.shared import shared

V, B, T = 19, 3, 13
GOLDEN = Path(__file__).parents[1] / "golden" / "hebbian_block.npz"


def tiny(seed: int = 0) -> Model:
    model = build("hebbian_block", vocab_size=V, seed=seed, **TINY).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    return model


def text(length: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(seed))


def gradients(model: Model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, gradient in expected.items():
        assert (gradient != 0).any(), name
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_golden_vectors_match():
    case = check_file(GOLDEN)
    assert case.passed
    assert {"logits", "sigma", "mlp_density", "logits_stepwise", "sigma_stepwise"} <= case.errors.keys()
    assert check_file(shared("golden/hebbian_block.npz")).errors == case.errors


def test_golden_vectors_notice_another_eta():
    vectors = read(GOLDEN)
    vectors.parameters["blocks.1.attn.eta"] = vectors.parameters["blocks.1.attn.eta"] * (1 + 1e-3)
    with torch.no_grad():
        logits = golden_model(vectors)(torch.from_numpy(vectors.arrays["idx"])).logits
    assert relative_error(logits, vectors.arrays["logits"]) > 1e-6


def test_parallel_form_equals_the_step_form_in_values_state_and_gradients():
    model, tokens, targets = tiny(), text(), text(seed=1)
    parallel, carried = model(tokens, targets), model(tokens, targets, model.initial_state(B))
    stepwise = model.stepwise(tokens, targets)
    for output in (parallel, carried):
        torch.testing.assert_close(output.logits, stepwise.logits, rtol=1e-10, atol=1e-12)
        assert_same_gradients(gradients(model, output.loss), gradients(model, stepwise.loss))
        stepwise = model.stepwise(tokens, targets)
    torch.testing.assert_close(carried.state["sigma"], stepwise.state["sigma"], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_attention_is_eta_times_the_strict_triangle():
    model = tiny()
    attention = model.blocks[0].attn
    x = torch.randn(B, T, TINY["n_embd"], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    heads = attention.split(x, half_rotation(torch.arange(T)[None], 6, torch.float64), 0)
    out, sigma = attention.read_parallel(heads, None)
    assert sigma is None
    expected = torch.zeros_like(out)
    for t in range(T):
        for s in range(t):
            scores = (heads.queries[:, :, t] * heads.keys[:, :, s]).sum(-1, keepdim=True)
            expected[:, :, t] += 0.1 * scores * heads.values[:, :, s]
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-9)
    assert (out[:, :, 0] == 0).all()


def test_carried_sigma_continues_its_positions():
    model, tokens, targets = tiny(), text(17), text(17, seed=1)
    full = model(tokens, targets)
    first = model(tokens[:, :7], state=model.initial_state(B))
    second = model(tokens[:, 7:], state=first.state)
    torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), full.logits, rtol=1e-10, atol=1e-12)
    assert second.state["position"].tolist() == [17] * B
    logits = torch.cat((first.logits, second.logits), dim=1)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert_same_gradients(gradients(model, loss), gradients(model, full.loss))
    restarted = first.state | {"position": torch.zeros(B, dtype=torch.int64)}
    again = model(tokens[:, 7:], state=restarted)
    assert (again.logits - second.logits).abs().max() > 1e-3


@torch.no_grad()
def test_streams_at_different_positions_read_as_they_would_alone():
    model, tokens = tiny(), text(15)
    parts = [model(tokens[[b], :length], state=model.initial_state(1)).state for b, length in enumerate((0, 4, 9))]
    state = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    windows = torch.stack([tokens[b, start : start + 6] for b, start in enumerate((0, 4, 9))])
    logits = model(windows, state=state).logits
    for b, start in enumerate((0, 4, 9)):
        expected = model(tokens[[b], : start + 6]).logits[0, start:]
        torch.testing.assert_close(logits[b], expected, rtol=1e-10, atol=1e-12)


def test_rotation_depends_on_distance_alone_and_is_exact_far_out():
    q, k = torch.randn(2, 1, 1, 1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def product(query_position: int, key_position: int) -> torch.Tensor:
        turned = [
            rotate_halves(x, half_rotation(torch.tensor([[position]]), 10, torch.float64))
            for x, position in ((q, query_position), (k, key_position))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(product(9, 4), product(10**8 + 5, 10**8), rtol=1e-6, atol=1e-6)
    assert abs(product(9, 4) - product(9, 5)) > 1e-2
    cos, sin = half_rotation(torch.tensor([[3]]), 4, torch.float64)
    assert cos.flatten().tolist() == pytest.approx([math.cos(3), math.cos(0.03)], rel=1e-6)
    assert sin.flatten().tolist() == pytest.approx([math.sin(3), math.sin(0.03)], rel=1e-6)


@torch.no_grad()
def test_activation_statistics_are_shares_of_non_zeros():
    model, tokens = tiny(), text()
    seen: dict[tuple[str, int], torch.Tensor] = {}
    with listening(lambda name, layer, tensor: seen.update({(name, layer): tensor})):
        model(tokens)
    statistics = model.activation_statistics(tokens)
    assert len(statistics) == TINY["n_layer"]
    for layer, found in enumerate(statistics):
        assert found.keys() == {"q_sparse", "k_sparse", "mlp_sparse"}
        for name, share in found.items():
            expected = np.count_nonzero(seen[name, layer].numpy()) / seen[name, layer].numel()
            assert share == pytest.approx(expected, abs=1e-12)
            assert 0.2 < share < 0.8
    assert seen["mlp_sparse", 0].shape == (B, T, 4 * TINY["n_embd"])
    assert (seen["q_sparse", 1] >= 0).all()


def test_readout_is_the_embedding():
    model = tiny()
    assert [name for name, _ in model.trainable_parameters("readout")] == ["tok_emb.weight"]
    assert model.parameter_count() == V * 12 + 2 * (12 * 12 * 12 + 1)
    assert sum(name.endswith("eta") for name, _ in model.trainable_parameters("full")) == 2


@torch.no_grad()
def test_state_stays_float32_under_bfloat16():
    model = tiny().bfloat16()
    state = model(text(), state=model.initial_state(B)).state
    assert state["sigma"].dtype == torch.float32


def test_heads_of_an_odd_size_are_a_clear_error():
    with pytest.raises(ParamsError, match="n_embd 18 is not a multiple of 2 \\* n_head"):
        build("hebbian_block", vocab_size=V, n_embd=18, n_head=2)
