"""The fused layers in their plain-torch form equal the plain model: values, gradients, penalty, streams."""

import pytest
import torch
import torch.nn.functional as F

from bdh.kernels.training import dispatch, reference
from bdh.kernels.training import step as fused_training
from bdh.kernels.training.shape import Tuning, columns, heads_of
from bdh.kernels.training.step import FusedStack, Readout
from tests.support.fused_cases import TUNINGS, V, batch_of, close, model_of, trained


@pytest.mark.parametrize(("B", "T"), [(3, 17), (2, 45)])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("variant", ["bdh", "eq8"])
def test_values_and_gradients_equal_the_plain_model(variant, tuning, B, T):
    model, batch = model_of(variant, tuning=TUNINGS[tuning]), batch_of(B, T)
    close(trained(model, "fused", batch), trained(model, "plain", batch), 1e-12)


@pytest.mark.parametrize("carried", [False, True])
def test_gradients_are_the_slopes_of_the_function(carried):
    torch.manual_seed(0)
    tuning = Tuning(long_from=2, segment=16)
    model = model_of(n_layer=2, n_embd=4, n_head=2, mlp_internal_dim_multiplier=4, tuning=tuning)
    model.measure_l1 = True
    plan = dispatch.plan_of(model, torch.zeros(2, 18, dtype=torch.int64), carried)
    rows = torch.randn(2, 32, 4, dtype=torch.float64)
    rows[:, 18:] = 0
    inputs = [rows, *(torch.randn_like(p) for p in (model.encoder, model.encoder_v, model.decoder))]
    wanted = torch.randn(2, 18, 4, dtype=torch.float64)

    def function(*tensors):
        after, l1 = FusedStack.apply(*tensors, plan)
        return (after[:, :18] * wanted).sum() + 5 * l1

    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(function(*leaves), leaves)
    for which, gradient in enumerate(gradients):
        step = torch.randn_like(inputs[which]) * 1e-7
        step = step * (inputs[which] != 0)
        moved = [[t + sign * step if i == which else t for i, t in enumerate(inputs)] for sign in (1, -1)]
        slope = float(function(*moved[0]) - function(*moved[1])) / 2
        assert abs(slope - float((gradient * step).sum())) < 1e-5 * abs(slope)


@pytest.mark.parametrize("variant", ["bdh", "eq8"])
def test_streams_do_not_see_each_other(variant):
    model = model_of(variant, tuning=Tuning(long_from=2, segment=16))
    (tokens, targets), other = batch_of(2, 40), batch_of(2, 40, seed=1)[0]
    mixed = torch.stack((tokens[0], other[1]))
    losses, gradients = [], []
    for inputs in (tokens, mixed):
        model.zero_grad()
        output = model(inputs)
        loss = F.cross_entropy(output.logits[0], targets[0])
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(model.encoder.grad.clone())
    assert losses[0] == losses[1]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-15)


def test_later_tokens_do_not_change_earlier_ones():
    model = model_of(tuning=Tuning(long_from=2, segment=16))
    tokens = batch_of(2, 40)[0]
    changed = tokens.clone()
    changed[:, 29] = (changed[:, 29] + 1) % V
    one, other = model(tokens).logits, model(changed).logits
    assert torch.allclose(one[:, :29], other[:, :29], rtol=1e-12, atol=1e-12)
    assert ((one - other)[:, 29:].abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("variant", ["bdh", "eq8"])
def test_bfloat16_gradients_are_as_close_to_float64_as_those_of_the_plain_path(variant):
    settings = {"n_embd": 32, "n_head": 2, "mlp_internal_dim_multiplier": 16}
    errors = {"plain": {}, "fused": {}}
    for seed in range(4):
        batch = batch_of(3, 45, seed)
        expected = trained(model_of(variant, **settings), "plain", batch, l1=0.0)
        for kernel, found in errors.items():
            with torch.autocast("cpu", torch.bfloat16):
                rough = trained(model_of(variant, dtype=torch.float32, **settings), kernel, batch, l1=0.0)
            for name, right in expected.items():
                found[name] = found.get(name, 0.0) + float((rough[name] - right).norm() / right.norm())
    for name in ("encoder", "encoder_v", "decoder", "embed.weight"):
        assert errors["fused"][name] < 1.1 * errors["plain"][name], f"{name}: {errors}"


def test_columns_of_heads_are_undone_exactly():
    encoder = torch.randn(3, 5, 8)
    assert torch.equal(heads_of(columns(encoder), 3), encoder)
    assert torch.equal(columns(encoder)[:, 8 + 1], encoder[1, :, 1])


@pytest.mark.parametrize("variant", ["bdh", "eq8"])
def test_loss_from_logits_and_loss_computed_with_its_gradients_agree(variant):
    model, batch = model_of(variant, tuning=Tuning(bytes=80_000)), batch_of(3, 21)
    together = trained(model, "fused", batch)
    model.zero_grad()
    model.l1_weight = 0.0
    output = model(batch[0])
    assert output.logits.shape == (3, 21, V)
    (F.cross_entropy(output.logits.flatten(0, 1), batch[1].flatten()) + 0.3 * output.l1).backward()
    close({name: parameter.grad for name, parameter in model.named_parameters()},
          {name: together[name] for name, _ in model.named_parameters()}, 1e-12)  # fmt: skip


def test_gradients_follow_the_factor_of_the_loss():
    model, batch = model_of(), batch_of(2, 20)
    once = trained(model, "fused", batch, l1=0.0)
    model.zero_grad()
    (model(*batch).loss * 0.25).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, once[name] / 4, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 1e-2)])
def test_loss_in_parts_equals_cross_entropy(dtype, tolerance):
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    x, head = torch.randn(23, 8, dtype=wide, requires_grad=True), torch.randn(8, 70, dtype=wide, requires_grad=True)
    targets = torch.randint(70, (23,))
    readout = Readout(head.detach(), dtype, 5, 23, reference)
    parts = [readout.add(x.detach()[rows], targets[rows]) for rows in (slice(0, 14), slice(14, 23))]
    found = [parts[0][0] + parts[1][0], torch.cat([dx for _, dx in parts]), readout.gradient]
    expected = F.cross_entropy((x.to(dtype) @ head.to(dtype)).to(wide), targets)
    right = [expected, *torch.autograd.grad(expected, (x, head))]
    for one, other in zip(found, right, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_passes_run_on_where_no_graph_can_be_made(monkeypatch, caplog):
    model, batch = model_of(), batch_of(2, 20)
    expected = trained(model, "fused", batch)

    def refuses(one):
        raise RuntimeError("a capture\nthat failed")

    monkeypatch.setattr(fused_training, "_recorded", refuses)
    monkeypatch.setattr(fused_training.Runner, "may_record", lambda self, one: self.records and self.steps > 0)
    for _ in range(2):
        close(trained(model, "fused", batch), expected, 1e-12)
    assert caplog.text.count("no CUDA graph could be made: a capture") == 1
