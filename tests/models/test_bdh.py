"""The official model: attention in three forms, rotation at any position, parity with the public file."""

import importlib.util
from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bdh.models.base import build
from bdh.nn import rope
from bdh.nn.attention import attend_chunked, attend_parallel, attend_stepwise
from bdh.nn.dropout import dropout
from bdh.project.errors import ParamsError
from tests.support.shared import shared

SHAPE = {"n_layer": 2, "n_embd": 12, "n_head": 3, "mlp_internal_dim_multiplier": 6, "dropout": 0.0}
V = 37


def model_of(seed=0, dtype=torch.float64, **settings):
    model = build("bdh", vocab_size=V, seed=seed, **(SHAPE | settings)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def tokens_of(seed, *shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def close(found, expected, tolerance, what):
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= tolerance, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("T", [1, 2, 17, 33])
@pytest.mark.parametrize("form", ["parallel", "chunked"])
def test_attention_forms_agree_in_values_state_and_gradients(form, T, dtype, tolerance):
    torch.manual_seed(T)
    H, B, N, D = 2, 3, 10, 5
    exact = [torch.randn(H, B, T, N).relu(), torch.randn(B, T, D), torch.randn(H, B, N, D)]
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in exact]
    rough = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    state_dtype = torch.promote_types(dtype, torch.float32)
    fast = attend_parallel if form == "parallel" else lambda q, v, rho: attend_chunked(q, v, rho, chunk=5)
    found = fast(rough[0], rough[1], rough[2].to(state_dtype))
    expected = attend_stepwise(*exact)
    assert found[1].dtype == state_dtype
    weights = [torch.randn_like(tensor) for tensor in expected]
    for name, one, other in zip(("a", "rho"), found, expected, strict=True):
        close(one, other, tolerance, name)
    sum((one * w.to(one.dtype)).sum() for one, w in zip(found, weights, strict=True)).backward()
    sum((one * w).sum() for one, w in zip(expected, weights, strict=True)).backward()
    for name, one, other in zip(("dq", "dv", "drho"), rough, exact, strict=True):
        close(one.grad, other.grad, tolerance, name)


def test_attention_never_reads_the_token_itself():
    q, v = torch.rand(1, 4, 6), torch.randn(1, 4, 3)
    reads, state = attend_parallel(q, v)
    assert state is None
    assert (reads[:, 0] == 0).all()
    torch.testing.assert_close(reads[0, 1], (q[0, 1] @ q[0, 0]) * v[0, 0])


def test_rotation_is_bit_equal_to_float32_phases_at_small_positions():
    N, T = 24, 4099
    n = torch.arange(0, N, 1, dtype=torch.float32)
    turns = 1.0 / 65536.0 ** ((n / 2).floor() * 2 / N) / (2 * torch.pi)
    frequency = rope.pair_frequencies(N)
    assert torch.equal(rope.neuron_frequencies(frequency), turns)
    angles = (torch.arange(T, dtype=torch.float32)[:, None] * turns) % 1 * (2 * torch.pi)
    cos, sin = rope.rotation(T, frequency)
    assert torch.equal(cos, angles.cos()[:, ::2])
    assert torch.equal(sin, angles.sin()[:, ::2])
    carried, _ = rope.rotation(99, frequency, torch.tensor([0, T - 99]))
    assert torch.equal(carried[0], cos[:99])
    assert torch.equal(carried[1], cos[-99:])


@pytest.mark.parametrize("position", [rope.EXACT_FROM, 10**6 + 1, 2**31 + 7, 2**40 + 12345])
def test_phases_are_exact_at_large_positions(position):
    frequency = rope.pair_frequencies(64)
    found = rope.phases(torch.tensor([position]), frequency)[0]
    for pair, integer in enumerate(frequency.tolist()):
        exact = Fraction(position * integer, 2**rope.FRACTION_BITS) % 1
        assert abs(Fraction(found[pair].item()) - exact) <= Fraction(1, 2**24), pair


def test_phases_meet_where_exact_ones_take_over():
    frequency = rope.pair_frequencies(64)
    before = torch.arange(rope.EXACT_FROM - 50, rope.EXACT_FROM)
    rounded = rope.phases(before, frequency).double()
    exact = (before[:, None] * frequency % 2**rope.FRACTION_BITS).double() / 2**rope.FRACTION_BITS
    gap = (rounded - exact + 0.5) % 1 - 0.5
    assert 0 < gap.abs().max() < 1.3e-4


def scores_at(start, lag=7):
    """Scores of two rotated vectors `lag` apart, the first at `start`."""
    frequency = rope.pair_frequencies(64)
    x = torch.rand(1, 1, 64, generator=torch.Generator().manual_seed(0)).double()
    early = rope.rotate(x, *rope.rotation(1, frequency, torch.tensor([start])))
    late = rope.rotate(x, *rope.rotation(1, frequency, torch.tensor([start + lag])))
    return (early * late).sum().item()


@pytest.mark.parametrize("start", [1000, 2**14 - 3, 10**6, 10**9 + 7, 2**40])
def test_rotation_depends_on_relative_position_only(start):
    assert scores_at(start) == pytest.approx(scores_at(0), rel=3e-4)
    assert scores_at(start, lag=8) != pytest.approx(scores_at(0), rel=3e-3)


def test_rotation_in_float32_products_would_lose_relative_position(monkeypatch):
    monkeypatch.setattr(rope, "EXACT_FROM", 2**62)
    assert scores_at(10**9 + 7) != pytest.approx(scores_at(0), rel=1e-2)


def test_rotation_keeps_norms_and_does_not_follow_the_precision_of_the_model():
    model = model_of(dtype=torch.bfloat16)
    assert torch.equal(model.frequency, model_of().frequency)
    cos, sin = rope.rotation(33, model.frequency)
    x = torch.randn(2, 33, 24, dtype=torch.float64)
    turned = rope.rotate(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert rope.rotate(x.bfloat16(), cos, sin).dtype == torch.bfloat16


def test_rotation_compiled_equals_eager():
    cos, sin = rope.rotation(9, rope.pair_frequencies(8))
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(rope.rotate, backend="eager")(x, cos, sin), rope.rotate(x, cos, sin))


def test_gradients_through_a_carried_state_equal_the_full_ones():
    model, tokens, targets = model_of(), tokens_of(0, 3, 19), tokens_of(1, 3, 19)
    expected = torch.autograd.grad(model(tokens, targets).loss, list(model.parameters()))
    state, total = model.initial_state(3), 0.0
    for piece, wanted in zip(tokens.split((4, 1, 11, 3), 1), targets.split((4, 1, 11, 3), 1), strict=True):
        output = model(piece, wanted, state)
        state, total = output.state, total + output.loss * piece.shape[1] / 19
    found = torch.autograd.grad(total, list(model.parameters()))
    for (name, _), one, other in zip(model.named_parameters(), found, expected, strict=True):
        close(one, other, 1e-12, name)


@torch.no_grad()
def test_state_goes_on_beyond_the_exact_threshold():
    model = model_of()
    state = model.initial_state(1)
    moved = state | {"position": torch.tensor([10**9])}
    tokens = tokens_of(0, 1, 23)
    close(model(tokens, state=moved).logits, model(tokens, state=state).logits, 1e-4, "logits")


@torch.no_grad()
def test_state_stays_float32_under_autocast():
    model = model_of(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = model(tokens_of(0, 2, 9), state=model.initial_state(2)).state
    assert state["rho"].dtype == torch.float32
    assert state["rho"].shape == (2, 2, 3, 24, 12)


def test_dropout_acts_in_training_only():
    model, tokens = model_of(dropout=0.5), tokens_of(0, 2, 9)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, model(tokens).logits)
        model.train()
        assert not torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6])
def test_dropout_keeps_the_share_and_the_mean_without_pattern(share):
    torch.manual_seed(0)
    x = torch.ones(3, 101, 333, dtype=torch.float64, requires_grad=True)
    y = dropout(x, share, training=True)
    kept = (y != 0).double()
    spread = (share * (1 - share) / x.numel()) ** 0.5
    assert abs(kept.mean() - (1 - share)) < 5 * spread
    torch.testing.assert_close(y.max().item(), 1 / (1 - share), rtol=1e-4, atol=0)
    flat = kept.flatten() - kept.mean()
    for lag in (1, 2, 3, 4, 5, 8, 333):
        correlation = (flat[lag:] * flat[:-lag]).mean() / flat.square().mean()
        assert abs(correlation) < 5 / x.numel() ** 0.5, lag
    for lane in range(4):
        assert abs(kept.flatten()[lane::4].mean() - (1 - share)) < 10 * spread, lane
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert dropout(x, share, training=False) is x


def test_l1_term_has_a_gradient():
    model = build("bdh", vocab_size=V, seed=0, **SHAPE)
    model.measure_l1 = True
    l1 = model(tokens_of(0, 2, 9)).l1
    (gradient,) = torch.autograd.grad(l1, model.encoder)
    assert (gradient != 0).any()
    with torch.no_grad():
        model.encoder -= 0.1 * gradient / gradient.norm()
        assert model(tokens_of(0, 2, 9)).l1 < l1


def test_l21_penalty_is_the_mean_norm_over_the_embedding():
    model = model_of()
    encoder = torch.stack([model.encoder[h, :, n].norm() for h in range(3) for n in range(24)]).mean()
    encoder_v = torch.stack([model.encoder_v[h, :, n].norm() for h in range(3) for n in range(24)]).mean()
    decoder = torch.stack([row.norm() for row in model.decoder]).mean()
    penalty = model.l21_penalty()
    torch.testing.assert_close(penalty, encoder + encoder_v + decoder)
    for gradient in torch.autograd.grad(penalty, [model.encoder, model.encoder_v, model.decoder]):
        assert (gradient != 0).all()


def test_graph_factors_give_the_neuron_graph():
    factors = model_of().graph_factors()
    assert factors.decoder.shape == (72, 12)
    assert factors.encoder.shape == (3, 12, 24)


def test_parameters_of_the_published_sizes():
    with torch.device("meta"):
        assert build("bdh", vocab_size=256).parameter_count() == 25_296_896
        assert build("bdh", vocab_size=50257, n_layer=4, n_embd=128).parameter_count() == 19_157_248


def test_operations_equal_a_count_of_the_products_with_the_causal_half():
    model, T, (L, H, D, N) = model_of(dtype=torch.float32), 16, (2, 3, 12, 24)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens_of(0, 1, T))
    half_not_needed = L * H * (2 * T - (T - 1)) * (N + D)
    assert model.flops_per_token(T) == counter.get_total_flops() / T - half_not_needed


@pytest.mark.parametrize(
    "settings", [{"mlp_internal_dim_multiplier": 1, "n_head": 4}, {"n_layer": 0}, {"dropout": 1.0}]
)
def test_impossible_shapes_are_refused(settings):
    with pytest.raises(ParamsError, match="neurons per head"):
        model_of(**settings)


def official_module():
    spec = importlib.util.spec_from_file_location("official_bdh", shared("references/bdh_original/bdh.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official(dtype=torch.float32):
    """The official model with random weights, and ours with the same ones, loaded by name."""
    module = official_module()
    torch.manual_seed(0)
    theirs = module.BDH(module.BDHConfig(vocab_size=V, **SHAPE)).eval()
    for parameter in theirs.parameters():
        parameter.data = (parameter.data * 8).to(dtype)
    ours = model_of(seed=5, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("neurons", [24, 30, 256, 4096, 8192])
def test_official_file_has_bit_equal_frequencies_and_rotation(neurons):
    module, frequency = official_module(), rope.pair_frequencies(neurons)
    theirs = module.get_freqs(neurons, theta=2**16, dtype=torch.float32)
    assert torch.equal(rope.neuron_frequencies(frequency), theirs)
    x = torch.randn(2, 700, neurons)
    expected = module.Attention.rope(torch.arange(700.0)[:, None] * theirs, x)
    torch.testing.assert_close(rope.rotate(x, *rope.rotation(700, frequency)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_official_file_gives_the_same_loss_and_gradients(dtype, tolerance):
    theirs, ours = official(dtype)
    tokens, targets = tokens_of(0, 3, 33), tokens_of(1, 3, 33)
    logits, loss = theirs(tokens, targets)
    output = ours(tokens, targets)
    close(output.logits, logits, tolerance, "logits")
    assert output.loss.item() == pytest.approx(loss.item(), rel=tolerance)
    loss.backward()
    output.loss.backward()
    for name, parameter in theirs.named_parameters():
        close(ours.get_parameter(name).grad, parameter.grad, tolerance, name)


def test_official_file_agrees_under_bfloat16_autocast():
    theirs, ours = official()
    tokens, targets = tokens_of(0, 3, 33), tokens_of(1, 3, 33)
    exact = ours(tokens, targets).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, reference = ours(tokens, targets).loss, theirs(tokens, targets)[1]
    assert abs(rough - exact) < max(2 * abs(reference - exact), 5e-3 * exact)


def test_official_file_continues_a_text_as_our_state_does():
    theirs, ours = official()
    prompt = tokens_of(3, 1, 5)
    expected = theirs.generate(prompt, 20, top_k=1)[0, 5:].tolist()
    state, found, piece = ours.initial_state(1), [], prompt
    with torch.no_grad():
        for _ in range(20):
            output = ours(piece, state=state)
            state, piece = output.state, output.logits[:, -1:].argmax(-1)
            found.append(piece.item())
    assert found == expected


def test_official_checkpoint_loads_by_name_and_checks_its_rotation():
    ours = model_of(seed=1)
    weights = {f"_orig_mod.{name}": tensor for name, tensor in model_of(seed=2).state_dict().items()}
    frequencies = rope.neuron_frequencies(ours.frequency).view(1, 1, 1, -1)
    ours.load_state_dict(weights | {"_orig_mod.attn.freqs": frequencies})
    assert torch.equal(ours.encoder, weights["_orig_mod.encoder"])
    with pytest.raises(RuntimeError, match="not the rotary frequencies of 24 neurons"):
        ours.load_state_dict(weights | {"attn.freqs": frequencies * 1.01})
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({})
