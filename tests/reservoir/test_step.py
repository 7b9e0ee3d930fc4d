"""The reservoirs: every scan equals the step form in values, state and gradients; nothing leaks over a cut."""

import pytest
import torch

from bdh.models.base import build
from bdh.nn.attention import decayed_attention
from bdh.reservoir.scan import scan
from bdh.reservoir.step import (
    Rules,
    Stream,
    effective_rank,
    fresh_stream,
    largest,
    layer_norm,
    stream_diagnostics,
)
from bdh.reservoir.truncation import one_by_one, side_by_side, truncated_scan
from tests.support.reservoir_cases import RULES, B, D, N, V, assert_close, inputs_of, stepwise, used_stream, weights_of


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("T", [1, 71])
@pytest.mark.parametrize("name", RULES)
def test_scan_equals_step_in_values_state_and_gradients(name, T, dtype, tolerance):
    rules, weights = RULES[name], weights_of(dtype)
    e, spikes = inputs_of(T, rules, dtype)
    start = used_stream(weights, rules, dtype)
    expected, last = stepwise(weights, rules, start, e, spikes)
    trace, state = scan(weights, rules, start, e, spikes)
    with torch.no_grad():
        plain, plain_state = scan(weights, rules, start, e, spikes)
    for quantity, one, two, right in zip(trace._fields, trace, plain, expected, strict=True):
        assert_close(one, right, tolerance, quantity)
        assert_close(two, right, tolerance, f"{quantity} without gradient")
    for quantity, one, two, right in zip(state._fields, state, plain_state, last, strict=True):
        assert_close(one, right, tolerance, f"state {quantity}")
        assert_close(two, right, tolerance, f"state {quantity} without gradient")
    mix = [torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)).to(dtype) for tensor in expected]
    names = ("E", "Dx", "Dy", "e")
    gradients = [
        torch.autograd.grad(sum((m * t).sum() for m, t in zip(mix, outputs, strict=True)), (*weights, e))
        for outputs in (trace, expected)
    ]
    for quantity, found, right in zip(names, *gradients, strict=True):
        assert right.norm() > 0, quantity
        assert_close(found, right, 10 * tolerance, f"gradient of {quantity}")


@pytest.mark.parametrize("truncated", [one_by_one, side_by_side, truncated_scan])
@pytest.mark.parametrize("T", [68, 71, 17])
@pytest.mark.parametrize("name", RULES)
def test_truncated_scan_equals_truncated_steps(name, T, truncated):
    rules, weights = RULES[name], weights_of()
    e, spikes = inputs_of(T, rules)
    start = used_stream(weights, rules)
    start = start._replace(rho_BKDN=start.rho_BKDN.clone().requires_grad_())
    sources = (*weights, e, start.rho_BKDN)
    outputs = []
    for parts, last in (
        truncated(weights, rules, start, e, spikes, 17),
        stepwise(weights, rules, start, e, spikes, truncation=17),
    ):
        total = sum(part.cos().sum() for part in (*parts, *last))
        outputs.append((*parts, *last, *torch.autograd.grad(total, sources)))
    for number, (one, other) in enumerate(zip(*outputs, strict=True)):
        assert_close(one, other, 1e-9, f"part {number}")


def test_runs_side_by_side_take_one_row_of_spikes_for_all_streams_and_can_leave_out_activities():
    rules, weights = RULES["neuro"], weights_of()
    e, spikes = inputs_of(71, rules)
    start = fresh_stream(B, weights, rules)
    once, _ = side_by_side(weights, rules, start, e, spikes[:1], 17, activity=False)
    spread, _ = side_by_side(weights, rules, start, e, spikes[:1].expand(B, -1, -1), 17)
    assert torch.equal(once.v_BTD, spread.v_BTD)
    assert torch.equal(once.gain_BT, spread.gain_BT)
    assert once.x_BTN is None
    assert spread.x_BTN.shape == (B, 71, N)


@pytest.mark.parametrize("truncated", [one_by_one, side_by_side])
@pytest.mark.parametrize("name", ["recurrent", "neuro"])
def test_truncation_cuts_gradients_at_its_multiples_and_nowhere_else(name, truncated):
    rules, weights = RULES[name], weights_of()
    e, spikes = inputs_of(71, rules)
    start = fresh_stream(B, weights, rules)
    trace, _ = truncated(weights, rules, start, e, spikes, 17)
    assert_close(trace.v_BTD, scan(weights, rules, start, e, spikes)[0].v_BTD, 1e-12, "values do not depend on it")
    (late,) = torch.autograd.grad(trace.v_BTD[:, 40].cos().sum(), e)
    reached = late.abs().sum((0, 2)) > 1e-9
    assert not reached[:34].any()
    assert reached[34:40].all()
    assert not reached[41:].any()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.97, 1.0])
def test_decayed_attention_equals_its_definition_at_any_decay(decay):
    T = 501
    generator = torch.Generator().manual_seed(0)
    x, e = torch.rand(B, T, 5, generator=generator).double(), torch.randn(B, T, 4, generator=generator).double()
    rho = torch.randn(B, 4, 5, generator=generator).double()
    found, last = decayed_attention(x, e, decay, rho)
    reads = []
    for t in range(T):
        reads.append(torch.einsum("bdn,bn->bd", rho, x[:, t]))
        rho = decay * (rho + e[:, t, :, None] * x[:, t, None, :])
    torch.testing.assert_close(found, torch.stack(reads, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, rho, rtol=1e-10, atol=1e-10)
    single = decayed_attention(x.float(), e.float(), decay, torch.zeros(B, 4, 5))[0]
    assert torch.isfinite(single).all()


@torch.no_grad()
def test_scan_keeps_activities_only_on_demand():
    rules, weights = RULES["recurrent"], weights_of()
    e, spikes = inputs_of(300, rules)
    start = fresh_stream(B, weights, rules)
    lean, _ = scan(weights, rules, start, e, spikes, activity=False)
    assert lean.x_BTN is None
    assert lean.y_BTN is None
    assert torch.equal(lean.v_BTD, scan(weights, rules, start, e, spikes)[0].v_BTD)


def test_largest_breaks_ties_by_the_higher_index():
    z = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 2.0, 3.0], [5.0, 2.0, 2.0, 1.0]])
    assert largest(z, 2, "last").int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert (largest(z, 2, "topk").sum(-1) == 2).all()


def test_layer_norm_has_both_conventions_and_a_finite_gradient_at_a_constant_row():
    z = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    for unbiased in (True, False):
        expected = (z - z.mean()) / (z.std(unbiased=unbiased) + 1e-6)
        torch.testing.assert_close(layer_norm(z, unbiased), expected, rtol=1e-14, atol=0)
    assert not torch.allclose(layer_norm(z, True), layer_norm(z, False), rtol=1e-3)
    flat = torch.ones(2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer_norm(flat, True).sum(), flat)
    assert (layer_norm(flat, True) == 0).all()
    assert torch.isfinite(gradient).all()


def test_effective_rank_of_known_matrices():
    one = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 8.0)).double()
    ranks = effective_rank(torch.stack([one[:4, :4], torch.eye(4).double(), torch.zeros(4, 4).double()]))
    torch.testing.assert_close(ranks, torch.tensor([1.0, 4.0, 1.0]).double(), rtol=1e-6, atol=1e-6)


def test_diagnostics_count_zeros_and_measure_the_synapses():
    x = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    y = torch.tensor([[0.0, 1.0, 2.0, 0.0]])
    rho = torch.zeros(1, 1, 2, 4)
    rho[0, 0, 0, 1], rho[0, 0, 1, 2] = 3.0, 4.0
    found = stream_diagnostics(Stream(x, y, torch.zeros(1, 2), rho), Rules(mod_gamma_max=0.8))
    assert found["sparsity_x"].item() == 0.75
    assert found["sparsity_y"].item() == 0.5
    assert found["rho_F"].item() == pytest.approx(5.0)
    assert 1.0 < found["rho_eff_rank"].item() < 2.0
    assert found["gain"].item() == pytest.approx(0.8, rel=1e-5)
    model = build("neuro", vocab_size=V, seed=0, n=N, d=D).eval()
    state = model(torch.randint(V, (3, 7)), state=model.initial_state(3)).state
    assert {name: tuple(value.shape) for name, value in model.diagnostics(state).items()} == dict.fromkeys(found, (3,))
