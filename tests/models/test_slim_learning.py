"""Three learning modes and a control: who uses autograd, who stays bounded on any text, what each one learns."""

import math

import pytest
import torch

from bdh.models.base import build
from bdh.models.slim import TINY, Slim

V, B, T = 17, 8, 24
CORPORA = ("random", "constant", "alternating", "bursts", "cycle")


def tiny(plastic: bool = True, **settings) -> Slim:
    return build("slim", vocab_size=V, seed=0, plastic=plastic, **TINY | settings)


def batch(corpus: str, seed: int, batch_size: int = B) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (B,T) of a made-up corpus; `cycle`: 17 unequal tokens, most steps go on to the next one."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, T + 1)
    random = torch.randint(V, shape, generator=generator)
    chance = torch.rand(shape, generator=generator)
    if corpus == "random":
        tokens = random
    elif corpus == "constant":
        tokens = torch.full(shape, 3)
    elif corpus == "alternating":
        tokens = (torch.arange(T + 1) % 2).expand(shape)
    elif corpus == "bursts":
        tokens = torch.full(shape, (seed // 50) % V)
    else:
        tokens = random.clone()
        for t in range(1, T + 1):
            step = (tokens[:, t - 1] + 1) % V
            tokens[:, t] = torch.where(chance[:, t] < 0.8, step, random[:, t].clamp(max=4))
    return tokens[:, :-1], tokens[:, 1:]


def unigram_nats() -> float:
    counts = torch.bincount(batch("cycle", 10**6, 4096)[1].flatten(), minlength=V).double()
    share = counts / counts.sum()
    return float(-(share * share.log()).sum())


@torch.no_grad()
def test_loss(model: Slim) -> float:
    model.eval()
    loss = model(*batch("cycle", 10**6, 256)).loss.item()
    model.train()
    return loss


test_loss.__test__ = False


def learn(model: Slim, rule: str, steps: int, corpus: str = "cycle") -> float:
    model.train()
    parameters = [parameter for _, parameter in model.trainable_parameters("full")]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for step in range(1, steps + 1):
        tokens, targets = batch(corpus, step)
        if rule != "hebbian":
            optimizer.zero_grad()
            model(tokens, targets).loss.backward()
            optimizer.step()
        if rule != "backprop":
            model.local_update(tokens, targets)
        model.after_step(step)
    return test_loss(model)


class DifferentiatedError(Exception):
    """Raised in place of a backward pass."""


def forbid_autograd(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Make every backward pass raise; the list collects what autograd would save for one."""

    def refuse(*args, **kwargs):
        raise DifferentiatedError

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    return []


@pytest.mark.parametrize("plastic", [True, False])
def test_hebbian_mode_never_uses_autograd(plastic, monkeypatch):
    model = tiny(plastic, prune_every=2, homeostasis_every=1).train()
    saved = forbid_autograd(monkeypatch)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda tensor: tensor):
        for step in range(1, 6):
            output = model.local_update(*batch("cycle", step))
            model.after_step(step)
            assert not output.logits.requires_grad
            assert not output.loss.requires_grad
            assert output.loss.grad_fn is None
    assert saved == []
    assert all(parameter.grad is None and parameter.is_leaf for parameter in model.parameters())
    assert not torch.equal(model.lm_head.weight, model.lm_head.initial_weight())


def test_autograd_detectors_do_detect(monkeypatch):
    model = tiny().train()
    saved = forbid_autograd(monkeypatch)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda tensor: tensor):
        loss = model(*batch("cycle", 1)).loss
    assert len(saved) > 20
    assert loss.requires_grad
    with pytest.raises(DifferentiatedError):
        loss.backward()
    with pytest.raises(DifferentiatedError):
        torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize(
    ("plastic", "settings"),
    [
        (True, {}),
        (True, {"homeostasis_every": 1, "target_activity": 0.2, "prune_every": 50}),
        (True, {"homeostasis_every": 1, "target_activity": 5.0, "prune_every": 50}),
        (False, {}),
    ],
    ids=["published", "fast_homeostasis", "high_target", "frozen"],
)
def test_local_learning_stays_bounded_on_any_text(plastic, settings, corpus):
    model = tiny(plastic, **settings).train()
    losses = local_losses(model, corpus, 120)
    assert all(math.isfinite(loss) for loss in losses)
    if corpus != "bursts":
        assert max(losses) < 2.5 * math.log(V)
        assert sum(losses[-20:]) / 20 < 1.15 * math.log(V)
    for name, linear in model.synapses().items():
        assert linear.weight.norm(dim=1).max() < 8.1, name
    assert model.lm_head.weight.abs().max() < 20


@pytest.mark.parametrize("corpus", ["constant", "alternating"])
def test_local_learning_stays_bounded_at_the_published_width(corpus):
    """512 channels and rate 0.01: where Oja's rule without a limit on its step diverges."""
    model = tiny(n_embd=512, n_head=8, n_layer=1).train()
    losses = local_losses(model, corpus, 25)
    assert max(losses) < 1.2 * math.log(V)
    assert losses[-1] < losses[0]
    assert all(linear.weight.norm(dim=1).max() < math.sqrt(2 + 0.01 * 512) for linear in model.synapses().values())


def local_losses(model: Slim, corpus: str, steps: int) -> list[float]:
    losses = []
    for step in range(1, steps + 1):
        losses.append(model.local_update(*batch(corpus, step)).loss.item())
        model.after_step(step)
    return losses


def test_plain_rule_diverges_where_oja_does_not():
    model = tiny(rule="plain", homeostatic=False).train()
    growth = []
    for step in range(1, 600):
        model.local_update(*batch("cycle", step))
        growth.append(model.blocks[0].w_v.weight.norm().item())
        if not math.isfinite(growth[-1]) or growth[-1] > 1e8:
            break
    assert growth[-1] > 1e4 or not math.isfinite(growth[-1])


@pytest.mark.parametrize(
    ("plastic", "rule", "settings"),
    [
        (True, "backprop", {}),
        (True, "hebbian", {"homeostasis_every": 1, "target_activity": 0.2}),
        (True, "hybrid", {"hebbian_lr": 0.0001}),
        (False, "hebbian", {}),
        (False, "backprop", {}),
    ],
)
def test_every_mode_beats_uniform_and_unigram(plastic, rule, settings):
    model = tiny(plastic, **settings)
    assert rule in model.learning_rules
    before, after = test_loss(model), learn(model, rule, 150)
    assert before > math.log(V) - 0.1
    assert after < unigram_nats() - 0.3
    assert unigram_nats() < math.log(V) - 0.1


def test_local_rules_at_published_rates_beat_uniform():
    assert learn(tiny(), "hebbian", 200) < math.log(V) - 0.1


@pytest.mark.parametrize(("rate", "held"), [(0.1 / 64, True), (0.05, False)], ids=["slow", "fast"])
def test_homeostasis_holds_oja_below_a_tenth_of_growth_per_step(rate, held):
    settings = {"n_embd": 64, "n_head": 4, "n_layer": 3, "homeostasis_every": 1, "target_activity": 0.2}
    model = tiny(hebbian_lr=rate, prune_threshold=0.0, **settings).train()
    losses = local_losses(model, "cycle", 150)
    activity = torch.cat(list(model.activity(batch("cycle", 0)[0]).values()))
    assert (activity.max() < 0.6) == held
    if held:
        assert sum(losses[-20:]) / 20 < unigram_nats() - 0.3


def test_embedding_positions_and_norms_do_not_learn_locally():
    model = tiny().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.local_update(*batch("cycle", 1))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"lm_head.weight"} | {f"{name}.weight" for name in model.synapses()}


@pytest.mark.parametrize("rule", ["hebbian", "backprop"])
def test_frozen_control_learns_its_readout_only(rule):
    model = tiny(plastic=False, prune_every=1, homeostasis_every=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn(model, rule, 3)
    assert {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])} == {"lm_head.weight"}
    assert [name for name, _ in model.trainable_parameters("full")] == ["lm_head.weight"]
    assert model.trainable_parameters("none") == []


def test_control_starts_from_the_same_function():
    reference, found = tiny().state_dict(), tiny(plastic=False).state_dict()
    assert found.keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in found.items())


@torch.no_grad()
def test_local_update_changes_all_synapses_at_once_by_what_neurons_send():
    model = tiny().double().eval()
    tokens, targets = batch("cycle", 1)
    block, W = model.blocks[1], {name: linear.weight.clone() for name, linear in model.synapses().items()}
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.w_1.register_forward_pre_hook(lambda linear, inputs: seen.update(x=inputs[0])),
        block.w_2.register_forward_pre_hook(lambda linear, inputs: seen.update(u=inputs[0])),
        block.w_2.register_forward_hook(lambda linear, inputs, output: seen.update(y=output)),
    ]
    expected = model(tokens, targets)
    for hook in hooks:
        hook.remove()
    output = model.local_update(tokens, targets)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.logits, expected.logits)
    for name, x, y in (("w_1", seen["x"], seen["u"]), ("w_2", seen["u"], seen["y"])):
        x, y, before = x.flatten(0, 1), y.flatten(0, 1), W[f"blocks.1.{name}"]
        change = 0.01 * (y.mT @ x / len(x) - y.square().mean(0)[:, None] * before)
        torch.testing.assert_close(getattr(block, name).weight - before, change, rtol=1e-8, atol=1e-12)


def test_local_update_is_float32_under_autocast():
    exact, rough = tiny().train(), tiny().train()
    exact.local_update(*batch("cycle", 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rough.local_update(*batch("cycle", 1)).logits.dtype == torch.float32
    for name, tensor in exact.state_dict().items():
        assert torch.equal(tensor, rough.state_dict()[name]), name


def test_compiled_training_learns_and_remembers_the_tokens_for_homeostasis():
    model, plain = (tiny(homeostasis_every=1).train() for _ in range(2))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(1, 3):
        for owner, forward in ((model, compiled), (plain, plain)):
            owner.zero_grad()
            forward(*batch("cycle", step)).loss.backward()
            owner.after_step(step)
        assert torch.equal(model.latest_tokens_BT, batch("cycle", step)[0])
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)
