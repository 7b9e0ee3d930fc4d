"""Pruned synapses stay pruned, homeostasis is measured on activity and bounded, statistics count what is there."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from bdh.models.base import build
from bdh.models.slim import TINY, Slim
from bdh.nn.plastic import PrunableLinear
from bdh.project.errors import ParamsError, RunError

V, B, T = 17, 4, 12
OPTIMIZERS = {
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def tiny(**settings) -> Slim:
    return build("slim", vocab_size=V, seed=0, **TINY | settings)


def text(seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def masks(model: Slim) -> dict[str, torch.Tensor]:
    return {name: linear.mask.clone() for name, linear in model.synapses().items()}


def train(model: Slim, rule: str, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        if rule != "hebbian":
            optimizer.zero_grad()
            model(text(2 * step), text(2 * step + 1)).loss.backward()
            optimizer.step()
        if rule != "backprop":
            model.local_update(text(2 * step), text(2 * step + 1))
        model.after_step(step)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rule", ["backprop", "hebbian", "hybrid"])
def test_pruned_synapses_are_never_regrown(rule, optimizer):
    model = tiny(prune_every=5, homeostasis_every=3).train()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    train(model, rule, optimizer, range(1, 5))
    assert all(mask.all() for mask in masks(model).values())
    train(model, rule, optimizer, range(5, 6))
    pruned = masks(model)
    assert all(0.05 < (~mask).float().mean() < 0.95 for mask in pruned.values())
    for step in range(6, 18):
        train(model, rule, optimizer, range(step, step + 1))
        for name, linear in model.synapses().items():
            assert (linear.weight[~pruned[name]] == 0).all(), (name, step)
            assert not (linear.mask & ~pruned[name]).any(), (name, step)
        pruned = masks(model)


def test_momentum_regrows_a_weight_that_is_only_zeroed():
    """What a mask prevents: the published pruning sets weights to zero once, and the optimizer moves on."""
    model = tiny().train()
    optimizer = OPTIMIZERS["sgd_momentum"](model.parameters())
    weight = model.blocks[0].w_1.weight
    for step in range(4):
        optimizer.zero_grad()
        model(text(step), text(step + 9)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        small = weight.abs() < 0.01
        weight[small] = 0
    model(text(7), text(8)).loss.backward()
    optimizer.step()
    assert (weight[small] != 0).float().mean() > 0.9


def test_masked_weight_carries_nothing_and_gets_no_gradient():
    linear = PrunableLinear(6, 4, 1.0)
    linear.prune(0.7)
    gone = ~linear.mask
    assert gone.any()
    x = torch.randn(5, 6)
    expected = linear(x)
    with torch.no_grad():
        linear.weight[gone] = 100.0
    torch.testing.assert_close(linear(x), expected)
    linear(x).sum().backward()
    assert (linear.weight.grad[gone] == 0).all()
    assert (linear.weight.grad[~gone] != 0).all()
    linear.enforce()
    assert (linear.weight[gone] == 0).all()
    linear.add(torch.ones(4, 6))
    assert (linear.weight[gone] == 0).all()


def test_published_threshold_removes_38_percent_of_the_initial_synapses():
    model = tiny(n_embd=64)
    for linear in model.synapses().values():
        linear.prune(0.01)
    share = model.get_sparsity_stats(text())["weight_sparsity"]
    assert share == pytest.approx(math.erf(0.5 / math.sqrt(2)), abs=0.01)
    assert share == pytest.approx(0.383, abs=0.01)


def test_masks_and_initial_weights_survive_saving(tmp_path):
    model = tiny(prune_every=2).train()
    initial = {name: linear.weight.detach().clone() for name, linear in model.synapses().items()}
    train(model, "hybrid", OPTIMIZERS["adamw"](model.parameters()), range(1, 4))
    assert any(name.endswith("mask") for name in model.state_dict())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = build("slim", vocab_size=V, seed=5, **TINY)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for name, linear in other.synapses().items():
        assert torch.equal(linear.mask, model.synapses()[name].mask)
        assert torch.equal(linear.initial_weight(), initial[name])
        assert not torch.equal(linear.initial_weight(), linear.weight)
    assert other.weight_changes() == model.weight_changes()


@torch.no_grad()
def test_homeostasis_factor_is_bounded_and_points_at_the_target():
    linear = PrunableLinear(3, 5, 1.0)
    before = linear.weight.clone()
    linear.scale(torch.tensor([0.0, 0.01, 0.5 / 1.05, 0.5, 100.0]), 0.5)
    factors = (linear.weight / before).mean(1)
    torch.testing.assert_close(factors, torch.tensor([1.1, 1.1, 1.05, 1.0, 0.9]), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_homeostasis_does_not_blow_up_a_neuron_with_silent_inputs():
    linear = PrunableLinear(3, 3, 1.0)
    linear.weight[1] = 100.0
    linear.weight[2] = 0.0
    for _ in range(2000):
        linear.scale(torch.zeros(3), 0.5)
    torch.testing.assert_close(linear.weight.norm(dim=1), torch.tensor([8.0, 100.0 * 3**0.5, 0.0]))


@torch.no_grad()
def test_homeostasis_brings_measured_activity_to_the_target():
    model = tiny(target_activity=0.3, homeostasis_every=1, prune_threshold=0.0).train()
    tokens = text()
    start = model.activity(tokens)
    for step in range(1, 120):
        model(tokens)
        model.after_step(step)
    found = model.activity(tokens)
    assert (start["blocks.0.w_q"] < 0.2).all()
    for name, activity in found.items():
        reached = (activity - 0.3).abs() < 0.015
        assert reached.all() if not name.endswith("w_1") else reached.float().mean() > 0.7, name
    assert model.training


@torch.no_grad()
def test_homeostasis_and_pruning_wait_for_their_steps():
    model = tiny(homeostasis_every=4, prune_every=6).train()
    weights = {name: linear.weight.clone() for name, linear in model.synapses().items()}
    model(text())
    changed = []
    for step in range(13):
        model.after_step(step)
        if any(not torch.equal(linear.weight, weights[name]) for name, linear in model.synapses().items()):
            changed.append(step)
        weights = {name: linear.weight.clone() for name, linear in model.synapses().items()}
    assert changed == [4, 6, 8, 12]
    still = tiny(homeostatic=False, homeostasis_every=1, prune_threshold=0.0).train()
    still(text())
    still.after_step(1)
    assert all(torch.equal(linear.weight, linear.initial_weight()) for linear in still.synapses().values())


def test_activity_is_the_mean_magnitude_of_what_neurons_send():
    model = tiny(dropout=0.5).train().double()
    activity = model.activity(text())
    assert activity.keys() == model.synapses().keys()
    with torch.no_grad():
        model.eval()
        x = model.embed(text()) + model.positions.weight[:T]
        block = model.blocks[0]
        q = block.ln_1(x) @ block.w_q.weight.mT
        torch.testing.assert_close(activity["blocks.0.w_q"], q.abs().mean((0, 1)))
        sent = []
        block.w_2.register_forward_pre_hook(lambda linear, inputs: sent.append(inputs[0]))
        block(x, 0)
    torch.testing.assert_close(activity["blocks.0.w_1"], sent[0].abs().mean((0, 1)))
    assert activity["blocks.1.w_1"].shape == (32,)


def test_sparsity_statistics_count_what_is_there():
    model = tiny()
    fresh = model.get_sparsity_stats(text())
    assert fresh["weight_sparsity"] == 0
    assert fresh["active_parameters"] == model.parameter_count()
    linear = model.blocks[1].w_1
    with torch.no_grad():
        linear.mask[:4] = False
        linear.enforce()
    stats = model.get_sparsity_stats(text())
    total = sum(linear.weight.numel() for linear in model.synapses().values())
    assert stats["weight_sparsity"] == pytest.approx(4 * 16 / total)
    assert stats["active_parameters"] == model.parameter_count() - 64
    assert stats["silent_neurons"][1] >= 4 / 32
    assert fresh["silent_neurons"][1] < 4 / 32
    assert stats["neuron_activity"][0] == fresh["neuron_activity"][0]
    assert 0.2 < fresh["neuron_activity"][0] < 0.8
    assert len(json.dumps(stats)) < 1000


def test_weight_change_histogram_counts_every_surviving_synapse():
    model = tiny()
    for histogram in model.weight_changes().values():
        assert histogram["rms"] == 0
        assert max(histogram["counts"]) == sum(histogram["counts"])
    linear = model.blocks[0].w_q
    linear.prune(0.005)
    with torch.no_grad():
        linear.weight[0] += 0.5 * linear.mask[0]
        linear.weight[1] -= 0.25 * linear.mask[1]
    found = model.weight_changes()["blocks.0.w_q"]
    left = linear.mask.sum(1).tolist()
    assert found["edges"][0] == pytest.approx(-0.5)
    assert found["edges"][-1] == pytest.approx(0.5)
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert found["counts"][-1] == left[0]
    assert found["counts"][10] + found["counts"][9] == left[1]
    assert sum(found["counts"]) == sum(left)
    assert found["pruned"] == 256 - sum(left)
    assert found["rms"] == pytest.approx(math.sqrt((0.25 * left[0] + 0.0625 * left[1]) / sum(left)), rel=1e-5)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rule": "bcm"}, "unknown rule 'bcm'; known rules: oja, plain"), ({"n_head": 3}, "n_embd 16 is not a multiple")],
)
def test_settings_that_cannot_be_are_clear_errors(settings, message):
    with pytest.raises(ParamsError, match=message):
        tiny(**settings)


def test_a_text_longer_than_the_positions_is_a_clear_error():
    with pytest.raises(RunError, match="a text of 12 tokens is longer than block_size 10"):
        tiny(block_size=10)(text())
