"""Optimizer, schedule, average, objective and validation, each against its definition."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bdh.corpora.tokens import fixed_windows
from bdh.models.base import LanguageModel
from bdh.project.errors import CorpusError, ParamsError
from bdh.training.optimizer import Average, check_objective, learning_rate, make_optimizer, objective
from bdh.training.update import Update
from bdh.training.validation import ValidationSet, norm_and_rank
from tests.support.toys import Toy, corpus, settings

CPU = torch.device("cpu")


class Plain(Toy):
    """Offers backprop alone and no penalty."""

    learning_rules = ("backprop",)

    def forward(self, tokens_BT, targets_BT=None, state=None):
        output = super().forward(tokens_BT, targets_BT, state)
        output.l1 = None
        return output

    def l21_penalty(self):
        return None

    def after_step(self, step):
        raise AssertionError


def test_optimizer_decays_matrices_only():
    model, chosen = Toy(), settings(weight_decay=0.5, learning_rate=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(list(model.named_parameters()), chosen, CPU)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_learning_rate_follows_warmup_and_cosine():
    chosen = settings(steps=103, warmup_steps=3, learning_rate=0.6, final_learning_rate=0.1)
    assert [learning_rate(s, chosen) for s in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.6])
    assert learning_rate(53, chosen) == pytest.approx(0.6 * (0.1 + 0.9 * 0.5))
    assert learning_rate(103, chosen) == pytest.approx(0.06)
    rates = [learning_rate(s, chosen) for s in range(3, 104)]
    assert rates == sorted(rates, reverse=True)


def test_learning_rate_without_warmup_starts_near_the_peak():
    chosen = settings(steps=10, warmup_steps=0, learning_rate=1.0, final_learning_rate=0.0)
    assert learning_rate(1, chosen) == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))
    assert learning_rate(10, chosen) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(5, settings(steps=5, warmup_steps=9, learning_rate=0.9)) == pytest.approx(0.5)


@pytest.mark.parametrize("share_of", [float, torch.tensor], ids=["number", "tensor"])
def test_average_is_the_exponential_mean_and_restores_the_raw_weights(share_of):
    model = Toy()
    average = Average(model, 0.75, keeps_zeros=False)
    expected = model.gain.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.gain.add_(0.1 * step)
        average.update(model, share_of(average.share(step)))
        decay = min(0.75, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.gain.detach()
    raw = model.gain.detach().clone()
    with average.applied(model):
        torch.testing.assert_close(model.gain.detach(), expected)
        assert not torch.equal(model.gain, raw)
    assert torch.equal(model.gain, raw)


def test_average_keeps_pruned_weights_at_zero():
    model = Toy()
    average, control = Average(model, 0.9, keeps_zeros=True), Average(model, 0.9, keeps_zeros=False)
    with torch.no_grad():
        model.encoder[0, :] = 0.0
    for one in (average, control):
        one.update(model, one.share(1))
    with average.applied(model):
        assert not model.encoder[0].any()
        assert model.encoder[1].all()
    with control.applied(model):
        assert model.encoder[0].all()


def test_objective_adds_penalties_with_gradients():
    model, chosen = Toy(dropout=0.0).double(), settings(l1=0.3, l21=0.2)
    model.begin_training(l1_weight=chosen.l1)
    check_objective(model, chosen, CPU)
    tokens = torch.arange(14).reshape(2, 7)
    output = model(tokens, tokens)
    total = objective(model, output, chosen)
    x = torch.relu(model.embed(tokens) @ model.encoder)
    by_hand = output.loss + 0.3 * x.mean() + 0.2 * model.encoder.norm(dim=0).mean()
    torch.testing.assert_close(total, by_hand)
    got = torch.autograd.grad(total, model.encoder, retain_graph=True)[0]
    torch.testing.assert_close(got, torch.autograd.grad(by_hand, model.encoder, retain_graph=True)[0])
    assert not torch.equal(got, torch.autograd.grad(output.loss, model.encoder)[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"l1": 0.1}, r"train\.l1: .* no such penalty"),
        ({"l21": 0.1}, r"train\.l21: .* no such penalty"),
        ({"learning_rule": "hebbian"}, r"train\.learning_rule: .*allowed: backprop"),
        ({"learning_rule": "hybrid"}, r"train\.learning_rule"),
    ],
)
def test_objective_refuses_what_the_model_does_not_offer(overrides, message):
    with pytest.raises(ParamsError, match=message):
        check_objective(Plain(), settings(**overrides), CPU)


def test_objective_refuses_penalties_without_gradient():
    with pytest.raises(ParamsError, match="learning_rule: hebbian"):
        check_objective(Toy(), settings(l1=0.1, learning_rule="hebbian"), CPU)


def test_update_readout_changes_the_readout_alone():
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update = Update(model, settings(regime="readout"), CPU, torch.float32)
    tokens = torch.arange(64).reshape(4, 16)
    loss, norm = update.apply(1, tokens, tokens)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"lm_head.weight"}
    assert float(norm) > 0
    assert float(loss) > 0


def test_update_clips_the_global_norm():
    tokens = torch.arange(64).reshape(4, 16)
    free, clipped = Toy(dropout=0.0), Toy(dropout=0.0)
    reference = Update(free, settings(gradient_clip=1e6), CPU, torch.float32)
    update = Update(clipped, settings(gradient_clip=0.01), CPU, torch.float32)
    _, norm = reference.apply(1, tokens, tokens)
    _, same = update.apply(1, tokens, tokens)
    assert float(norm) == pytest.approx(float(same))
    total = math.sqrt(sum(float(p.grad.square().sum()) for p in clipped.parameters()))
    assert total == pytest.approx(0.01, rel=1e-3)


def test_update_hebbian_never_uses_autograd(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("backward was called")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update = Update(model, settings(learning_rule="hebbian"), CPU, torch.float32)
    tokens = torch.arange(64).reshape(4, 16)
    loss, norm = update.apply(1, tokens, tokens)
    assert norm is None
    assert not loss.requires_grad
    assert not any(p.requires_grad for p in model.parameters())
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == {"lm_head.weight"}
    assert model.steps_seen == [1]


def test_update_hybrid_is_backprop_then_the_local_rule():
    tokens = torch.arange(64).reshape(4, 16)
    by_hand, model = Toy(dropout=0.0), Toy(dropout=0.0)
    Update(by_hand, settings(), CPU, torch.float32).apply(1, tokens, tokens)
    with torch.no_grad():
        by_hand.local_update(tokens, tokens)
    Update(model, settings(learning_rule="hybrid"), CPU, torch.float32).apply(1, tokens, tokens)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(by_hand.named_parameters())[name]), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_update_shows_after_step_all_tokens_of_the_step(accumulate):
    """Not those of the last micro-batch, and without the forward pass keeping anything."""
    seen = []

    class Watching(Toy):
        def after_step(self, step):
            seen.append(self.latest_tokens_BT)

    tokens = torch.arange(64).reshape(4, 16)
    Update(Watching(), settings(accumulate=accumulate), CPU, torch.float32).apply(1, tokens, tokens)
    assert torch.equal(seen[0], tokens)


def test_update_refuses_a_regime_without_parameters():
    class Frozen(Toy):
        def trainable_parameters(self, regime):
            return []

    with pytest.raises(ParamsError, match=r"train\.regime"):
        Update(Frozen(), settings(), CPU, torch.float32)


@pytest.mark.parametrize("several", [False, True])
def test_validation_score_equals_its_definition(tmp_path, several):
    text, model, chosen = corpus(tmp_path, several=several), Toy(), settings(validation_windows=5, batch_size=2)
    score = ValidationSet(text, chosen, CPU, torch.float32).score(model)
    inputs, targets = (torch.from_numpy(a) for a in fixed_windows(text.tokens("validation"), 5, 16))
    model.eval()
    nats = F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten(), reduction="none").detach().double()
    kept = targets.flatten() != 0 if several else torch.ones(targets.numel(), dtype=torch.bool)
    assert several == (not bool(kept.all()))
    assert score.nats_per_token == pytest.approx(nats.mean().item(), rel=1e-6)
    assert score.bits_per_byte == pytest.approx((nats[kept].sum() / math.log(2) / kept.sum()).item(), rel=1e-6)


def test_validation_leaves_mode_and_random_stream_alone(tmp_path):
    validation, model = ValidationSet(corpus(tmp_path), settings(), CPU, torch.float32), Toy().train()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = validation.score(model), validation.activations(model), validation.states(model)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert (validation.score(model), validation.activations(model), validation.states(model)) == first


def test_validation_density_counts_non_zeros(tmp_path):
    validation, model = ValidationSet(corpus(tmp_path), settings(), CPU, torch.float32), Toy()
    with torch.no_grad():
        model.encoder[:, :9] = 0.0
    found = validation.activations(model)
    x = torch.relu(model.embed(validation.inputs_ST[:4]) @ model.encoder)
    assert found["x_sparse", 0] == pytest.approx((x != 0).double().mean().item())
    assert found["x_sparse", 0] < 0.3
    assert set(found) == {("x_sparse", 0), ("gain", 0)}


def test_validation_states_report_norm_and_rank(tmp_path):
    validation, model = ValidationSet(corpus(tmp_path), settings(), CPU, torch.float32), Toy().eval()
    found = validation.states(model)
    rho = model(validation.inputs_ST[:1], state=model.initial_state(1)).state["rho"]
    assert found["state_norm_rho"] == pytest.approx(rho.norm().item(), rel=1e-6)
    squares = torch.linalg.svdvals(rho[0].double()) ** 2
    shares = squares / squares.sum()
    assert found["state_rank_rho"] == pytest.approx(torch.special.entr(shares).sum().exp().item(), rel=1e-6)


def test_rank_of_known_matrices():
    orthogonal = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0]
    assert norm_and_rank(orthogonal) == pytest.approx((math.sqrt(7), 7.0))
    outer = torch.outer(torch.arange(1.0, 5), torch.ones(9))
    assert norm_and_rank(outer)[1] == pytest.approx(1.0, abs=1e-5)
    assert norm_and_rank(torch.zeros(3, 4)) == pytest.approx((0.0, 1.0))
    stack = torch.stack([orthogonal, torch.zeros(7, 7)]).reshape(2, 1, 7, 7)
    assert norm_and_rank(stack) == pytest.approx((math.sqrt(7) / 2, 4.0))


@pytest.mark.parametrize(("text", "message"), [("short", "train.window"), ("", "empty")])
def test_validation_split_too_short_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        ValidationSet(corpus(tmp_path, validation=text), settings(), CPU, torch.float32)


def test_toy_state_chunked_equals_full():
    model: LanguageModel = Toy().double().eval()
    tokens = torch.from_numpy(np.arange(33).reshape(1, 33))
    state = {n: t.double() if t.is_floating_point() else t for n, t in model.initial_state(1).items()}
    first = model(tokens[:, :15], state=state)
    second = model(tokens[:, 15:], state=first.state)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), model(tokens).logits)
