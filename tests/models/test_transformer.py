"""The dense baseline: sized as promised, causal through the cache, clear about its limit."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bdh.models.base import build
from bdh.nn.counts import (
    bdh_neurons,
    bdh_operations,
    bdh_parameters,
    shape_for_operations,
    shape_for_parameters,
    transformer_operations,
    transformer_parameters,
)
from bdh.nn.probe import listening
from bdh.project.errors import ParamsError, RunError

SMALL = {"n_layer": 3, "n_embd": 32, "n_head": 4, "mlp_internal_dim_multiplier": 16, "dropout": 0.0, "block_size": 64}
BDH_SHAPES = {  # n_layer, n_embd, n_head, multiplier, vocabulary, window
    "official": (6, 256, 4, 128, 256, 512),
    "official-gpt2-vocabulary": (6, 256, 4, 128, 50257, 512),
    "two-stage": (4, 128, 4, 128, 50257, 512),
    "narrow": (6, 256, 4, 32, 256, 512),
    "laptop-bytes": (3, 64, 4, 16, 256, 128),
    "laptop-bpe": (3, 64, 4, 16, 1024, 128),
    "laptop-gpt2-vocabulary": (3, 64, 4, 16, 50257, 128),
    "tiny-huge-vocabulary": (2, 16, 2, 8, 50257, 32),
    "long-window": (8, 384, 6, 64, 256, 1024),
    "one-layer": (1, 48, 3, 10, 99, 33),
}


def model_of(match="parameters", vocab_size=256, **settings):
    settings = {"match": match} | settings
    return build("transformer", vocab_size=vocab_size, seed=0, **(SMALL | settings)).eval()


def tokens_of(seed, *shape, vocab_size=256):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BDH_SHAPES)
def test_sizing_meets_the_budget_in_sensible_proportions(name):
    L, D, H, multiplier, V, T = BDH_SHAPES[name]
    N = bdh_neurons(D, H, multiplier)
    budget = bdh_parameters(D, H, N, V)
    by_parameters = shape_for_parameters(budget, V, T, L, H)
    found = transformer_parameters(by_parameters.width, by_parameters.depth, by_parameters.hidden, T, V)
    assert found == pytest.approx(budget, rel=0.02)
    operations = bdh_operations(L, D, H, N, V, T)
    by_operations = shape_for_operations(operations, V, T, L, H)
    found = transformer_operations(by_operations.width, by_operations.depth, by_operations.hidden, V, T)
    assert found == pytest.approx(operations, rel=0.03)
    for shape in (by_parameters, by_operations):
        assert shape.depth >= L
        assert shape.width % shape.heads == 0
        assert shape.hidden >= shape.width
        if "huge" not in name:
            assert 3 < shape.hidden / shape.width < 5.5
            assert shape.heads >= H


def test_sizing_reproduces_the_usual_shape_at_the_official_size():
    shape = shape_for_parameters(25_296_896, 256, 512, 6, 4)
    assert (shape.width, shape.depth, shape.heads) == (512, 8, 8)


@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_resolved_numbers_describe_the_model_that_was_built(match):
    model = model_of(match)
    bdh = build("bdh", vocab_size=256, **{name: SMALL[name] for name in list(SMALL)[:5]})
    resolved = model.resolved
    assert resolved["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    blocks = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("blocks.", "norm.")))
    assert resolved["parameters_without_embeddings"] == blocks
    assert resolved["flops"] == model.flops_per_token(64)
    assert len(model.blocks) == resolved["depth"]
    assert model.embed.weight.shape == (256, resolved["width"])
    if match == "parameters":
        assert resolved["parameters"] == pytest.approx(bdh.parameter_count(), rel=0.02)
        assert resolved["flops"] < bdh.flops_per_token(64)
    else:
        assert resolved["flops"] == pytest.approx(bdh.flops_per_token(64), rel=0.03)
        assert resolved["parameters"] > bdh.parameter_count()


def test_operations_equal_a_count_of_the_products_with_the_causal_half():
    model, T = model_of(), 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens_of(0, 1, T))
    layers, width = model.resolved["depth"], model.resolved["width"]
    counted = counter.get_total_flops() / T
    attention = layers * 4 * width * T
    projections = model.flops_per_token(T) - layers * 2 * width * (T + 1)
    assert counted in (projections, projections + attention)


def test_window_of_training_decides_the_operations():
    short = model_of("flops", window=16).resolved
    long = model_of("flops", window=64).resolved
    assert short["flops"] < long["flops"]
    assert model_of("flops", window=512).resolved == long


def test_shape_given_by_hand_is_used_as_it_is():
    resolved = model_of(match="none", width=24, depth=2, heads=3).resolved
    assert (resolved["width"], resolved["depth"], resolved["heads"], resolved["hidden"]) == (24, 2, 3, 96)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": "params"}, "allowed: parameters, flops, none"),
        ({"width": 128}, "set match to 'none'"),
        ({"match": "none", "width": 30, "heads": 4}, "multiple of heads"),
        ({"block_size": 0}, "must be >= 1"),
        ({"n_layer": 0}, "must be >= 1"),
    ],
)
def test_contradictory_settings_name_the_remedy(settings, message):
    with pytest.raises(ParamsError, match=message):
        model_of(**settings)


@torch.no_grad()
def test_cache_grows_with_the_text_and_ends_at_block_size():
    model, sizes = model_of(), []
    state = model.initial_state(2)
    for chunk in tokens_of(0, 2, 64).split((1, 30, 33), dim=1):
        state = model(chunk, state=state).state
        sizes.append(state["key"].shape[3])
    assert sizes == [1, 31, 64]
    with pytest.raises(RunError, match="a text of 65 tokens is longer than its 64 learned positions"):
        model(tokens_of(0, 2, 1), state=state)


def test_gradients_through_the_cache_equal_the_full_ones():
    model, tokens, targets = model_of().double(), tokens_of(0, 3, 19), tokens_of(1, 3, 19)
    expected = torch.autograd.grad(model(tokens, targets).loss, list(model.parameters()))
    state, total = model.initial_state(3), 0.0
    for piece, wanted in zip(tokens.split((4, 1, 11, 3), 1), targets.split((4, 1, 11, 3), 1), strict=True):
        output = model(piece, wanted, state)
        state, total = output.state, total + output.loss * piece.shape[1] / 19
    for (name, _), one, other in zip(
        model.named_parameters(), torch.autograd.grad(total, list(model.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_gelu_units_are_dense():
    shown = []
    with listening(lambda name, layer, tensor: shown.append((name, layer, (tensor != 0).double().mean().item()))):
        model_of()(tokens_of(0, 2, 9))
    assert [(name, layer) for name, layer, _ in shown] == [("mlp_sparse", layer) for layer in range(3)]
    assert all(density == 1.0 for _, _, density in shown)


def test_dropout_acts_in_training_only():
    model, tokens = model_of(dropout=0.5), tokens_of(0, 2, 9)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, model(tokens).logits)
        model.train()
        assert not torch.equal(model(tokens).logits, model(tokens).logits)


def test_initial_weights_follow_the_table():
    model = model_of(n_embd=128, mlp_internal_dim_multiplier=64)
    depth = model.resolved["depth"]
    assert model.embed.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].contract.weight.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.05)
    assert model.trainable_parameters("readout")[0][1] is model.embed.weight


OPTIONS = {
    "rotary": {"positions": "rotary"},
    "qk_norm": {"qk_norm": True},
    "swiglu": {"mlp": "swiglu"},
    "untied": {"tied": False},
    "modern": {"positions": "rotary", "qk_norm": True},
    "all": {"positions": "rotary", "qk_norm": True, "mlp": "swiglu", "tied": False},
}
optional = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@optional
@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_every_option_is_counted_exactly_and_the_budget_still_met(options, match):
    for L, D, H, multiplier, V, T in BDH_SHAPES.values():
        shape = {"n_layer": L, "n_embd": D, "n_head": H, "mlp_internal_dim_multiplier": multiplier}
        with torch.device("meta"):
            model = build("transformer", vocab_size=V, block_size=T, window=T, match=match, **shape, **options)
        resolved, parts = model.resolved, model.config.parts
        width, depth, heads, hidden = (resolved[name] for name in ("width", "depth", "heads", "hidden"))
        positions = 0 if parts.even else T
        counted = transformer_parameters(width, depth, hidden, positions, V, heads, parts)
        assert counted == resolved["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert resolved["flops"] == transformer_operations(width, depth, hidden, V, T, parts)
        N = bdh_neurons(D, H, multiplier)
        if match == "parameters":
            assert counted == pytest.approx(bdh_parameters(D, H, N, V), rel=0.01)
        else:
            assert resolved["flops"] == pytest.approx(bdh_operations(L, D, H, N, V, T), rel=0.01)
        assert not parts.even or width // heads % 2 == 0


@optional
def test_operations_of_every_option_equal_a_count_of_the_products(options):
    model, T = model_of(**options), 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens_of(0, 1, T))
    layers, width = model.resolved["depth"], model.resolved["width"]
    attention = layers * 4 * width * T
    projections = model.flops_per_token(T) - layers * 2 * width * (T + 1)
    assert counter.get_total_flops() / T in (projections, projections + attention)


@optional
def test_every_option_reads_in_chunks_what_it_reads_at_once(options):
    """Logits, cache and gradients through the cache."""
    model, tokens, targets = model_of(**options).double(), tokens_of(0, 3, 19), tokens_of(1, 3, 19)
    whole = model(tokens, targets, model.initial_state(3))
    torch.testing.assert_close(model(tokens).logits, whole.logits, rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(whole.loss, list(model.parameters()))
    state, total, logits = model.initial_state(3), 0.0, []
    for piece, wanted in zip(tokens.split((4, 1, 11, 3), 1), targets.split((4, 1, 11, 3), 1), strict=True):
        output = model(piece, wanted, state)
        state, total = output.state, total + output.loss * piece.shape[1] / 19
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole.logits, rtol=1e-9, atol=1e-12)
    for name, tensor in whole.state.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    found = torch.autograd.grad(total, list(model.parameters()))
    for (name, _), one, other in zip(model.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        assert other.abs().max() > 0, name


@optional
def test_a_later_token_changes_no_earlier_logit_of_any_option(options):
    model, tokens = model_of(**options), tokens_of(0, 2, 21)
    changed = tokens.clone()
    changed[:, 13:] = (changed[:, 13:] + 7) % 256
    with torch.no_grad():
        one, other = model(tokens).logits, model(changed).logits
    assert torch.equal(one[:, :13], other[:, :13])
    assert not torch.equal(one[:, 13:], other[:, 13:])


@torch.no_grad()
def test_rotary_positions_count_distances_and_nothing_else():
    """Streams that begin at other places read the same; learned positions tell them apart."""
    tokens = tokens_of(0, 1, 20).expand(3, -1)
    for positions, same in (("rotary", True), ("learned", False)):
        model = model_of(positions=positions, qk_norm=True).double()
        for parameter in model.parameters():
            parameter.mul_(3.0)
        state = model.initial_state(3) | {"position": torch.tensor([0, 5, 40])}
        logits = model(tokens, state=state).logits
        assert torch.allclose(logits[0], logits[1], rtol=1e-9, atol=1e-12) == same
        assert torch.allclose(logits[0], logits[2], rtol=1e-9, atol=1e-12) == same
        swapped = tokens.clone()
        swapped[:, [3, 9]] = tokens[:, [9, 3]]
        assert not torch.allclose(model(swapped).logits[0, 15], model(tokens).logits[0, 15], rtol=1e-6)


@torch.no_grad()
def test_qk_norm_bounds_the_scores_and_its_gains_sharpen_them():
    tokens = tokens_of(0, 2, 12)
    model, plain = model_of(qk_norm=True).double(), model_of().double()
    before = model(tokens).logits, plain(tokens).logits
    for block in (*model.blocks, *plain.blocks):
        block.qkv.weight[: 2 * model.shape.width] *= 50.0
    torch.testing.assert_close(model(tokens).logits, before[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain(tokens).logits, before[1], rtol=1e-3, atol=1e-4)
    for block in model.blocks:
        block.query_gain *= 10.0
    assert not torch.allclose(model(tokens).logits, before[0], rtol=1e-3, atol=1e-4)


def test_readout_of_an_untied_model_is_a_matrix_of_its_own():
    model = model_of(tied=False)
    assert [name for name, _ in model.trainable_parameters("readout")] == ["lm_head.weight"]
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "sinusoidal"}, "allowed: positions learned, rotary"),
        ({"mlp": "relu"}, "mlp gelu, gelu_tanh, swiglu"),
        ({"positions": "rotary", "match": "none", "width": 27, "heads": 3}, "choose an even head width"),
    ],
)
def test_unknown_options_list_the_known_ones(settings, message):
    with pytest.raises(ParamsError, match=message):
        model_of(**settings)


@torch.no_grad()
def test_rotary_cache_ends_at_block_size_too():
    model = model_of(positions="rotary")
    state = model(tokens_of(0, 2, 64), state=model.initial_state(2)).state
    with pytest.raises(RunError, match="a text of 65 tokens is longer than its 64 rotary positions"):
        model(tokens_of(0, 2, 1), state=state)
