"""`neuro`: what each mechanism does, that each can be switched off alone, and the two readings of its kernels."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from bdh.nn.probe import listening
from bdh.reservoir.scan import scan
from bdh.reservoir.step import Rules, Weights, drawn_spikes, fixed_spikes, fresh_stream, respond, step, write_gain
from tests.support import variants

V, N, D = 37, 32, 8
MECHANISMS = {
    "branches": {"branches"},
    "forgetting": {"local_forget_eta"},
    "homeostasis": {"homeostasis_tau"},
    "kernels": {"kernels", "kernel_weights"},
    "kwta": {"k_wta"},
    "modulation": {"mod_gamma_max"},
    "spikes": {"spike_rate"},
    "x_kwta": {"x_kwta"},
    "x_norm": {"x_decay", "x_normalized"},
}


def model_of(variant, **settings):
    return variants.model_of(variant, vocab_size=V, **({"n": N, "d": D} | settings)).double().eval()


def text(seed=0, batch=2, length=40):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


def changed_rules(variant, other):
    one, two = (dataclasses.asdict(model_of(name).rules) for name in (variant, other))
    return {name for name in one if one[name] != two[name]}


def test_neuro_ablations_are_complete():
    found = [variants.SHIPPED.ablation_of(name) for name in variants.SHIPPED.variant]
    expected = {(kind, name) for kind in ("without", "only") for name in MECHANISMS}
    assert sorted(ablation for ablation in found if ablation) == sorted(expected)
    every = set().union(*MECHANISMS.values())
    assert changed_rules("neuro", "neuro_none") == every
    forms = {"separate_kernels", "use_relu_lowrank", "ln_before_Dy", "unbiased_std", "threshold_ratio"}
    assert every | forms | {"branch_nl", "ties"} == {field.name for field in dataclasses.fields(Rules)}
    assert model_of("neuro_none").rules == model_of("recurrent").rules


@pytest.mark.parametrize("name", MECHANISMS)
@torch.no_grad()
def test_neuro_mechanism_off_and_alone_change_that_mechanism_and_the_logits(name):
    params = variants.SHIPPED
    assert params.ablation_of(f"neuro_no_{name}") == ("without", name)
    assert params.ablation_of(f"neuro_only_{name}") == ("only", name)
    assert changed_rules("neuro", f"neuro_no_{name}") == MECHANISMS[name]
    assert changed_rules("neuro_none", f"neuro_only_{name}") == MECHANISMS[name]
    settings = {"homeostasis_tau": 0.001} if name == "homeostasis" else {}
    for without, given in ((f"neuro_no_{name}", "neuro"), ("neuro_none", f"neuro_only_{name}")):
        assert not torch.equal(model_of(given, **settings)(text()).logits, model_of(without)(text()).logits), given


def random_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((D, N), (N, D), (N, D))
    return Weights(*(torch.randn(*shape, generator=generator).double() / shape[1] ** 0.5 for shape in shapes))


def responses(rules, spikes=None):
    generator = torch.Generator().manual_seed(1)
    a, x = torch.randn(5, D, generator=generator).double(), torch.rand(5, N, generator=generator).double()
    return respond(a, x, spikes, random_weights(), rules), x


def test_neuro_k_wta_lets_at_most_k_neurons_fire():
    (plain, _), _ = responses(Rules(branches=2))
    (y, _), _ = responses(Rules(branches=2, k_wta=4))
    assert ((plain > 0).sum(-1) == N).all()
    assert ((y > 0).sum(-1) == 4).all()
    kept = y > 0
    torch.testing.assert_close(y[kept], plain[kept])


def test_neuro_homeostasis_scales_down_to_its_target_and_never_up():
    (plain, _), _ = responses(Rules(branches=2))
    for tau in (plain.sum(-1).min() / 2, 2 * plain.sum(-1).max()):
        (y, _), _ = responses(Rules(branches=2, homeostasis_tau=float(tau)))
        torch.testing.assert_close(y.sum(-1), plain.sum(-1).clamp(max=tau), rtol=1e-6, atol=0)
        torch.testing.assert_close(y / y.sum(-1, keepdim=True), plain / plain.sum(-1, keepdim=True))


def test_neuro_spikes_add_one_to_the_core():
    spikes = torch.zeros(5, N, dtype=torch.bool)
    spikes[:, 3] = True
    (plain, _), x = responses(Rules(branches=2))
    (y, _), _ = responses(Rules(branches=2), spikes)
    torch.testing.assert_close(y - plain, spikes * x)


def test_neuro_gain_is_the_entropy_of_the_hidden_vector_up_to_its_bound():
    rules = Rules(mod_gamma_max=0.8)
    v = torch.stack([torch.zeros(D), torch.eye(D)[0] * 50, torch.randn(D, generator=torch.Generator().manual_seed(0))])
    gain = write_gain(v, rules)
    assert gain[0].item() == pytest.approx(0.8, rel=1e-5)
    assert gain[1].item() == pytest.approx(0.0, abs=1e-6)
    assert 0 < gain[2] < 0.8
    assert (write_gain(v, Rules()) == 1).all()


def test_neuro_forgetting_fades_the_synapses_of_silent_neurons_alone():
    weights, forgetting = random_weights(), Rules(local_forget_eta=0.5, kernels=(1.0,))
    stream = fresh_stream(1, weights, forgetting)
    stream = stream._replace(rho_BKDN=torch.ones_like(stream.rho_BKDN))
    after, _ = step(weights, forgetting, stream, torch.zeros(1, D).double())
    torch.testing.assert_close(after.rho_BKDN, torch.full_like(after.rho_BKDN, 0.5))
    e = torch.randn(1, D, generator=torch.Generator().manual_seed(0)).double()
    after, _ = step(weights, forgetting, stream, e)
    silent = after.x_BN[0] == 0
    assert 0 < silent.sum() < N
    assert (after.rho_BKDN[0, 0][:, silent] == 0.5).all()
    expected = 1 + e[0][:, None] * after.x_BN[0][~silent]
    torch.testing.assert_close(after.rho_BKDN[0, 0][:, ~silent], expected)


@torch.no_grad()
def test_neuro_x_kwta_keeps_as_many_as_the_gain_allows():
    taps = {}
    with listening(lambda name, layer, tensor: taps.update({name: tensor})):
        model_of("neuro")(text())
    allowed = (N * (0.05 + 0.25 * taps["gain"])).long().clamp(min=1)
    active = (taps["x_sparse"][:, 0] > 0).sum(-1)
    assert (active <= allowed).all()
    assert (active == allowed).float().mean() > 0.5
    with listening(lambda name, layer, tensor: taps.update({name: tensor})):
        model_of("neuro_no_x_kwta")(text())
    assert (taps["x_sparse"][:, 0] > 0).sum(-1).double().mean() > 2 * active.double().mean()


def test_neuro_mixture_of_kernels_is_one_decay():
    weights, e = random_weights(), torch.randn(2, 50, D, generator=torch.Generator().manual_seed(0)).double()
    mixed = Rules(kernels=(0.99, 0.97, 0.94), kernel_weights=(0.5, 0.3, 0.2), mod_gamma_max=0.8)
    single = replace(mixed, kernels=(0.5 * 0.99 + 0.3 * 0.97 + 0.2 * 0.94,), kernel_weights=(1.0,))
    one, two = (scan(weights, rules, fresh_stream(2, weights, rules), e) for rules in (mixed, single))
    torch.testing.assert_close(one[0].v_BTD, two[0].v_BTD)
    torch.testing.assert_close(one[1].rho_BKDN, two[1].rho_BKDN)
    spelled = 0.5 * (0.99 * one[1].rho_BKDN) + 0.3 * (0.97 * one[1].rho_BKDN) + 0.2 * (0.94 * one[1].rho_BKDN)
    torch.testing.assert_close(spelled, mixed.decays[0] * one[1].rho_BKDN)


def test_neuro_separate_kernels_agree_on_one_write_and_remember_longer_than_the_mixture():
    weights = random_weights()
    mixed = Rules(kernels=(0.99, 0.97, 0.94), kernel_weights=(0.5, 0.3, 0.2))
    remaining = {}
    for rules in (mixed, replace(mixed, separate_kernels=True)):
        e = torch.zeros(1, 201, D).double()
        e[0, 0] = 1.0
        sizes = []
        for length in (1, 201):
            _, stream = scan(weights, rules, fresh_stream(1, weights, rules), e[:, :length])
            read = torch.einsum("bkdn,k->bdn", stream.rho_BKDN, torch.tensor(rules.read_weights).double())
            sizes.append(read.norm().item())
        remaining[rules.separate_kernels] = sizes
    assert remaining[True][0] == pytest.approx(remaining[False][0])
    assert remaining[False][1] / remaining[False][0] == pytest.approx(mixed.decays[0] ** 200)
    expected = sum(w * u**201 for w, u in zip((0.5, 0.3, 0.2), mixed.kernels, strict=True))
    assert remaining[True][1] / remaining[True][0] == pytest.approx(expected / mixed.decays[0])
    assert remaining[True][1] > 5 * remaining[False][1]
    assert model_of("neuro_multiscale").initial_state(2)["rho"].shape == (2, 1, 3, D, N)
    with torch.no_grad():
        assert not torch.allclose(model_of("neuro_multiscale")(text()).logits, model_of("neuro")(text()).logits)


def test_neuro_fixed_spikes_are_a_function_of_the_position_with_the_right_rate():
    spikes = fixed_spikes(torch.tensor([0, 100]), 1000, 128, 0.01)
    assert torch.equal(spikes[0, 100:], spikes[1, :900])
    assert spikes.double().mean().item() == pytest.approx(0.01, rel=0.05)
    per_neuron = fixed_spikes(torch.tensor([0]), 20000, 64, 0.1)[0].double()
    assert (per_neuron.mean(0) - 0.1).abs().max() < 0.012
    assert per_neuron.T.corrcoef().fill_diagonal_(0).abs().max() < 0.04
    assert not fixed_spikes(torch.tensor([0]), 100, 64, 0.0).any()
    assert fixed_spikes(torch.tensor([0]), 100, 64, 1.0).all()


@torch.no_grad()
def test_neuro_spikes_are_drawn_in_training_and_repeat_in_evaluation():
    model = model_of("neuro", spike_rate=0.2)
    assert torch.equal(model(text()).logits, model(text()).logits)
    model.train()
    torch.manual_seed(0)
    first, second = model(text()).logits, model(text()).logits
    torch.manual_seed(0)
    assert torch.equal(model(text()).logits, first)
    assert not torch.equal(first, second)
    rate = drawn_spikes(8, 100, 64, 0.2, torch.device("cpu")).double().mean().item()
    assert rate == pytest.approx(0.2, rel=0.05)
