"""The fused layers in their plain-torch form equal the plain model: values, gradients, penalty, streams."""

import pytest
import torch
import torch.nn.functional as F

from bdh.kernels.training import dispatch, reference
from bdh.kernels.training import step as fused_training
from bdh.kernels.training.layers import Gradients, StreamGroup
from bdh.kernels.training.shape import Tuning, columns, heads_of
from bdh.kernels.training.step import FusedTraining, Readout, Runner
from tests.support.fused_cases import TUNINGS, V, batch_of, close, model_of, trained


@pytest.mark.parametrize(("B", "T"), [(3, 17), (2, 45)])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("variant", ["bdh", "eq8"])
def test_values_and_gradients_equal_the_plain_model(variant, tuning, B, T):
    model, batch = model_of(variant, tuning=TUNINGS[tuning]), batch_of(B, T)
    close(trained(model, "fused", batch), trained(model, "plain", batch), 1e-12)


def plan_of(model, streams, tokens, carried=False):
    """The plan of a pass over `model` that measures the activity and drops nothing."""
    matrices = (model.encoder, model.encoder_v, model.decoder, model.lm_head)
    stack = dispatch.LayerStack(*matrices, model.layers, carried, 0.0, True, 5.0, model.tuning)
    return dispatch.plan_of(stack, streams, tokens)


@pytest.mark.parametrize("carried", [False, True])
def test_gradients_are_the_slopes_of_the_function(carried):
    torch.manual_seed(0)
    tuning = Tuning(long_from=2, segment=16)
    model = model_of(n_layer=2, n_embd=4, n_head=2, mlp_internal_dim_multiplier=4, tuning=tuning)
    plan = plan_of(model, 2, 18, carried)
    rows = torch.randn(2, 32, 4, dtype=torch.float64)
    rows[:, 18:] = 0
    parameters = (model.encoder, model.encoder_v, model.decoder, model.lm_head)
    inputs = [rows, *(torch.randn_like(p) for p in parameters)]
    targets = torch.randint(V, (2, 18))

    def function(*tensors):
        return 20 * FusedTraining.apply(*tensors, targets, 5.0, plan, Runner())[0]

    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(function(*leaves), leaves)
    for which, gradient in enumerate(gradients):
        step = torch.randn_like(inputs[which]) * 1e-7
        step = step * (inputs[which] != 0)
        moved = [[t + sign * step if i == which else t for i, t in enumerate(inputs)] for sign in (1, -1)]
        slope = float(function(*moved[0]) - function(*moved[1])) / 2
        assert abs(slope - float((gradient * step).sum())) < 1e-5 * abs(slope)


def layers_of(model, tokens, gradient):
    """Rows after the layers (B,T,D) of `tokens`, and the gradient of those before them from `gradient` (B,T,D)."""
    plan = plan_of(model, *tokens.shape, model.carried)
    u = F.layer_norm(model.embed(tokens).detach(), (plan.shape.D,))
    padding = (0, 0, 0, plan.shape.T - plan.tokens)
    u, gradient = (F.pad(rows, padding).flatten(0, 1) for rows in (u, gradient))
    weights = plan.weights(model.encoder.detach(), model.encoder_v.detach(), model.decoder.detach())
    group = StreamGroup(weights, plan, plan.draws([slice(0, len(tokens))], u.device)[0], u)
    after, _ = group.forward(u)
    before = group.backward(gradient, None, Gradients.zeros(plan, u))
    return (rows.view(len(tokens), -1, plan.shape.D)[:, : plan.tokens] for rows in (after, before))


@pytest.mark.parametrize("variant", ["bdh", "eq8"])
def test_streams_do_not_see_each_other(variant):
    model = model_of(variant, tuning=Tuning(long_from=2, segment=16))
    tokens, other = batch_of(2, 40)[0], batch_of(2, 40, seed=1)[0]
    mixed = torch.stack((tokens[0], other[1]))
    gradient = torch.randn(2, 40, model.config.n_embd, dtype=torch.float64)
    for one, beside in zip(layers_of(model, tokens, gradient), layers_of(model, mixed, gradient), strict=True):
        assert torch.equal(one[0], beside[0])
        assert not torch.equal(one[1], beside[1])


def test_later_tokens_do_not_change_earlier_ones_nor_get_gradients_from_them():
    model = model_of(tuning=Tuning(long_from=2, segment=16))
    tokens = batch_of(2, 40)[0]
    changed = tokens.clone()
    changed[:, 29] = (changed[:, 29] + 1) % V
    gradient = torch.randn(2, 40, model.config.n_embd, dtype=torch.float64)
    gradient[:, 30:] = 0
    (one, before), (other, _) = layers_of(model, tokens, gradient), layers_of(model, changed, gradient)
    assert torch.allclose(one[:, :29], other[:, :29], rtol=1e-12, atol=1e-12)
    assert ((one - other)[:, 29:].abs().amax(-1) > 1e-6).all()
    assert not before[:, 30:].any()
    assert before[:, :30].any()


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
def test_forward_chooses_no_kernel(variant, monkeypatch):
    """`forward` is pure: whatever `kernel` says, it takes the plain path and gives whole logits."""
    model, batch = model_of(variant, dropout=0.3), batch_of(3, 21)
    monkeypatch.setattr(FusedTraining, "apply", lambda *_: pytest.fail("forward took the fused path"))
    model.begin_training(kernel="fused")
    before = dict(vars(model))
    assert model(*batch).logits.shape == (3, 21, V)
    assert vars(model) == before


@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_gradients_follow_the_factor_of_the_total(l1):
    model, batch = model_of(), batch_of(2, 20)
    once = trained(model, "fused", batch, l1)
    model.zero_grad()
    (model.objective(model.training_pass(*batch)) * 0.25).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, once[name] / 4, rtol=1e-12, atol=0)


USES = {
    "the loss alone": lambda output: output.loss,
    "twice the loss": lambda output: 2 * output.loss,
    "another weight": lambda output: output.loss + 0.7 * output.l1,
    "the same weight, added up again": lambda output: output.loss + 0.3 * output.l1,
    "a second penalty": lambda output: output.total + 0.1 * output.l1,
    "the activity alone": lambda output: output.l1,
}


@pytest.mark.parametrize("use", USES)
def test_a_sum_whose_gradient_the_fused_pass_does_not_know_is_an_error(use):
    """It gave the gradient of loss + 0.3 * activity, times that of the loss, whatever the caller had added up."""
    model, batch = model_of(), batch_of(2, 20)
    model.begin_training(kernel="fused", l1_weight=0.3)
    with pytest.raises(RuntimeError, match="differentiate that total"):
        USES[use](model.training_pass(*batch)).backward()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("factor", [1, 2])
def test_without_a_penalty_the_loss_is_the_total(factor):
    model, batch = model_of(), batch_of(2, 20)
    expected = trained(model, "plain", batch, l1=0.0)
    model.begin_training(kernel="fused")
    model.zero_grad()
    (factor * model.training_pass(*batch).loss).backward()
    close({name: p.grad for name, p in model.named_parameters()},
          {name: factor * expected[name] for name, _ in model.named_parameters()}, 1e-12)  # fmt: skip


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
