"""The gated linear recurrence: one function in two forms, sized as promised, its state of constant size."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bdh.models.base import build
from bdh.nn.attention import GATED_CHUNK, GATED_SEGMENT, LOWEST_GATE, gated_chunked, gated_stepwise
from bdh.nn.counts import TransformerShape, gated_linear_operations, gated_linear_parameters
from bdh.nn.probe import listening
from bdh.project.errors import ParamsError

SMALL = {"n_layer": 3, "n_embd": 32, "n_head": 4, "mlp_internal_dim_multiplier": 16, "dropout": 0.0, "window": 64}
BDH_SHAPES = {  # n_layer, n_embd, n_head, multiplier, vocabulary, window
    "official": (6, 256, 4, 128, 256, 512),
    "official-gpt2-vocabulary": (6, 256, 4, 128, 50257, 512),
    "two-stage": (4, 128, 4, 128, 50257, 512),
    "laptop-bytes": (3, 64, 4, 16, 256, 128),
    "laptop-bpe": (3, 64, 4, 16, 1024, 128),
    "laptop-gpt2-vocabulary": (3, 64, 4, 16, 50257, 128),
    "tiny-huge-vocabulary": (2, 16, 2, 8, 50257, 32),
    "one-layer": (1, 48, 3, 10, 99, 33),
}


def model_of(vocab_size=256, **settings):
    return build("gated_linear", vocab_size=vocab_size, seed=0, **(SMALL | settings)).eval()


def tokens_of(seed, *shape, vocab_size=256):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def operands(T, dtype, lowest=-1.0, B=2, H=3, K=5, V=7):
    """Queries, keys, values, log decays down to `lowest`, and a state that is not zero."""
    generator = torch.Generator().manual_seed(T)
    q, k, v, rho = (
        torch.randn(B, H, *shape, generator=generator, dtype=torch.float64)
        for shape in ((T, K), (T, K), (T, V), (K, V))
    )
    g = lowest * torch.rand(B, H, T, K, generator=generator, dtype=torch.float64)
    return [part.to(dtype).requires_grad_() for part in (q, k, v, g, rho)]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("lowest", [0.0, -0.1, LOWEST_GATE])
@pytest.mark.parametrize("T", [1, 3, 33, 63, 100, GATED_SEGMENT + 77])
def test_chunked_form_equals_the_stepwise_one_in_values_state_and_gradients(T, lowest, dtype, close):
    """Up to the strongest decay allowed, at which a chunk spans 27 orders of magnitude."""
    found = {}
    for form in (gated_stepwise, gated_chunked):
        parts = operands(T, dtype, lowest)
        read, state = form(*parts)
        weight = torch.linspace(-1, 1, read.numel(), dtype=dtype).view_as(read)
        gradients = torch.autograd.grad((read * weight).sum() + state.square().sum(), parts)
        names = ("read", "state", "dq", "dk", "dv", "dg", "drho")
        found[form] = dict(zip(names, (read, state, *gradients), strict=True))
    for name, expected in found[gated_stepwise].items():
        scale = float(expected.detach().abs().max()) + 1e-30
        error = float((found[gated_chunked][name] - expected).detach().abs().max()) / scale
        assert error < close, f"{name}: {error}"


def test_nothing_overflows_when_every_gate_is_shut():
    """The weights of keys grow to e^64 inside a chunk; their products with queries never leave float32."""
    q, k, v, g, rho = (part.detach() for part in operands(2 * GATED_CHUNK + 1, torch.float32))
    read, state = gated_chunked(8 * q, 8 * k, v, torch.full_like(g, LOWEST_GATE), rho)
    assert torch.isfinite(read).all()
    assert torch.isfinite(state).all()
    exact, _ = gated_stepwise(8 * q, 8 * k, v, torch.full_like(g, LOWEST_GATE), rho)
    torch.testing.assert_close(read, exact, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = gated_chunked(8 * q, 8 * k, v, torch.full_like(g, LOWEST_GATE), rho)
    assert (rough - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_without_decay_it_is_plain_linear_attention():
    q, k, v, g, rho = (part.detach() for part in operands(50, torch.float64, lowest=0.0))
    read, state = gated_chunked(q, k, v, g, torch.zeros_like(rho))
    torch.testing.assert_close(read, (q @ k.mT).tril() @ v)
    torch.testing.assert_close(state, k.mT @ v)


@pytest.mark.parametrize("T", [5, 33, 71])
def test_model_read_token_by_token_equals_the_model_read_at_once(T):
    """Logits, state and gradients; single tokens are the recurrent form of the layer."""
    model, tokens, targets = model_of().double(), tokens_of(0, 2, T), tokens_of(1, 2, T)
    parameters = list(model.parameters())
    whole = model(tokens, targets, model.initial_state(2))
    expected = torch.autograd.grad(whole.loss, parameters)
    state, losses, logits = model.initial_state(2), [], []
    for t in range(T):
        output = model(tokens[:, t : t + 1], targets[:, t : t + 1], state)
        state = output.state
        losses.append(output.loss)
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole.logits, rtol=1e-9, atol=1e-12)
    for name, tensor in whole.state.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    found = torch.autograd.grad(torch.stack(losses).mean(), parameters)
    for (name, _), one, other in zip(model.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", BDH_SHAPES)
@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_sizing_meets_the_budget_in_sensible_proportions(name, match):
    L, D, H, multiplier, V, T = BDH_SHAPES[name]
    shape = {"n_layer": L, "n_embd": D, "n_head": H, "mlp_internal_dim_multiplier": multiplier}
    with torch.device("meta"):
        bdh = build("bdh", vocab_size=V, **shape)
        model = build("gated_linear", vocab_size=V, window=T, match=match, **shape)
    resolved = model.resolved
    if match == "parameters":
        assert resolved["parameters"] == pytest.approx(bdh.parameter_count(), rel=0.01)
    else:
        assert resolved["flops"] == pytest.approx(bdh.flops_per_token(T), rel=0.01)
    assert resolved["depth"] >= L
    assert resolved["width"] % (2 * resolved["heads"]) == 0
    if "huge" not in name and "laptop-gpt2" not in name:
        assert resolved["heads"] == H
        assert 1.8 < resolved["hidden"] / resolved["width"] < 3.7


@pytest.mark.parametrize("tied", [True, False])
def test_counted_parameters_are_those_of_the_model(tied):
    model = model_of(tied=tied, gate_rank=5)
    resolved = model.resolved
    shape = TransformerShape(*(resolved[name] for name in ("width", "depth", "heads", "hidden")))
    assert gated_linear_parameters(shape, 256, 5, tied) == model.parameter_count() == resolved["parameters"]
    tables = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("embed", "lm_head")))
    assert tables == (1 if tied else 2) * 256 * shape.width
    assert resolved["parameters_without_embeddings"] == model.parameter_count() - tables
    readout = dict(model.trainable_parameters("readout"))
    assert readout.keys() == ({"embed.weight"} if tied else {"lm_head.weight"})


def test_counted_operations_are_those_of_the_products_with_the_causal_half():
    model, T = model_of(), 2 * GATED_CHUNK
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens_of(0, 1, T))
    width, depth, heads = (model.resolved[name] for name in ("width", "depth", "heads"))
    per_pair = 2 * depth * heads * (width // (2 * heads) + width // heads)
    square = model.flops_per_token(T) + per_pair * (GATED_CHUNK - (GATED_CHUNK + 1) / 2)
    square += 2 * 3 * 3 / T * depth * width * width / (2 * heads)  # three states, each the sum of three that fade
    assert counter.get_total_flops() / T == pytest.approx(square, rel=1e-12)


def test_operations_do_not_grow_with_a_window_longer_than_a_chunk():
    shape = TransformerShape(64, 2, 4, 128)
    short, chunk, long = (gated_linear_operations(shape, 256, 16, 32, window) for window in (16, 32, 4096))
    assert short < chunk == long


def test_half_life_of_a_fresh_state_is_that_of_the_paper():
    """A gate of one half to the power 1/16: sixteen tokens; and no decay is ever stronger than the bound."""
    seen = {}
    model = model_of()
    with torch.no_grad(), listening(lambda name, layer, x: seen.update({(name, layer): x})):
        model(tokens_of(0, 2, 40))
    assert seen.keys() == {(name, layer) for name in ("retention", "mlp_sparse") for layer in range(3)}
    assert seen["retention", 0].shape == (2, 40, model.resolved["width"] // 2)
    assert seen["retention", 0].mean().item() == pytest.approx(0.5 ** (1 / 16), abs=1e-3)
    with torch.no_grad(), listening(lambda name, layer, x: seen.update({(name, layer): x})):
        for block in model.blocks:
            block.decay_up.bias.fill_(-1000.0)
        assert torch.isfinite(model(tokens_of(0, 2, 40)).logits).all()
    torch.testing.assert_close(seen["retention", 2], torch.full_like(seen["retention", 2], LOWEST_GATE).exp())


def test_initial_weights_follow_the_table():
    model = model_of(n_embd=128, mlp_internal_dim_multiplier=64)
    depth, block = model.resolved["depth"], model.blocks[0]
    for weight in (model.embed.weight, block.query.weight, block.decay_up.weight, block.gate.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.contract.weight.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.05)
    assert not block.decay_up.bias.any()
    assert (block.head_gain == 1).all()


def test_dropout_acts_in_training_only():
    model, tokens = model_of(dropout=0.5), tokens_of(0, 2, 9)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, model(tokens).logits)
        model.train()
        assert not torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": "params"}, "allowed: parameters, flops, none"),
        ({"width": 128}, "set match to 'none'"),
        ({"match": "none", "width": 36, "heads": 4}, "multiple of 2"),
        ({"gate_rank": 0}, "must be >= 1"),
        ({"n_layer": 0}, "must be >= 1"),
    ],
)
def test_contradictory_settings_name_the_remedy(settings, message):
    with pytest.raises(ParamsError, match=message):
        model_of(**settings)


def test_shape_given_by_hand_is_used_as_it_is():
    resolved = model_of(match="none", width=24, depth=2, heads=3).resolved
    assert (resolved["width"], resolved["depth"], resolved["heads"], resolved["hidden"]) == (24, 2, 3, 64)
