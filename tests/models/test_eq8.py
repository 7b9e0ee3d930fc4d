"""Definition 4: against its equations written out with loops, parallel against step form, and what sets it apart."""

import math

import pytest
import torch
import torch.nn.functional as F

from bdh.models.base import build
from bdh.models.eq8 import TINY, Model
from bdh.nn.probe import listening

V, B, T = 23, 3, 11
L, H, N = TINY["n_layer"], TINY["n_head"], 32


def tiny(seed: int = 0, variant: str = "eq8", dtype: torch.dtype = torch.float64) -> Model:
    model = build(variant, vocab_size=V, seed=seed, **TINY).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def text(length: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(seed))


def gradients(model: Model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def turn(vector: torch.Tensor, position: int) -> torch.Tensor:
    """Rotary encoding of one vector of N neurons, pair by pair."""
    turned = vector.clone()
    for i in range(0, N, 2):
        angle = 2 * math.pi * ((position / (2**16) ** (i / N) / (2 * math.pi)) % 1)
        even, odd = vector[i], vector[i + 1]
        turned[i] = even * math.cos(angle) - odd * math.sin(angle)
        turned[i + 1] = odd * math.cos(angle) + even * math.sin(angle)
    return turned


def norm(vector: torch.Tensor) -> torch.Tensor:
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def definition(model: Model, tokens: list[int]) -> tuple[torch.Tensor, dict]:
    """Logits (T,V) of one stream, and rho by layer and head, straight from the four equations."""
    rho = {(layer, h): torch.zeros(N, 16, dtype=torch.float64) for layer in range(L) for h in range(H)}
    logits = []
    for t, token in enumerate(tokens):
        v = norm(model.embed.weight[token])
        x = [torch.zeros(N, dtype=torch.float64)] * H
        for layer in range(L):
            written = {}
            gathered = torch.zeros(16, dtype=torch.float64)
            for h in range(H):
                x[h] = x[h] + (v @ model.encoder[h]).clamp(min=0)
                q = turn(x[h], t)
                y = (norm(q @ rho[layer, h]) @ model.encoder_v[h]).clamp(min=0) * x[h]
                written[layer, h] = rho[layer, h] + torch.outer(q, v)
                gathered = gathered + y @ model.decoder[h * N : (h + 1) * N]
            rho |= written
            v = norm(gathered)
        logits.append(v @ model.lm_head)
    return torch.stack(logits), rho


@torch.no_grad()
def test_step_form_is_definition_4():
    model, tokens = tiny(), text(7)
    output = model.stepwise(tokens)
    for stream in range(B):
        logits, rho = definition(model, tokens[stream].tolist())
        torch.testing.assert_close(output.logits[stream], logits, rtol=1e-5, atol=1e-5)
        for (layer, h), matrix in rho.items():
            torch.testing.assert_close(output.state["rho"][stream, layer, h], matrix, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_state", [False, True], ids=["parallel", "state"])
def test_parallel_form_equals_the_step_form_in_values_state_and_gradients(with_state):
    model, tokens, targets = tiny(), text(), text(seed=1)
    output = model(tokens, targets, model.initial_state(B) if with_state else None)
    stepwise = model.stepwise(tokens, targets)
    torch.testing.assert_close(output.logits, stepwise.logits, rtol=1e-9, atol=1e-9)
    if with_state:
        torch.testing.assert_close(output.state["rho"], stepwise.state["rho"], rtol=1e-9, atol=1e-9)
        assert torch.equal(output.state["position"], stepwise.state["position"])
    expected = gradients(model, stepwise.loss)
    for name, gradient in gradients(model, output.loss).items():
        assert (gradient != 0).any(), name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_chunks_equal_the_full_text_in_values_state_and_gradients():
    model, tokens, targets = tiny(), text(13), text(13, seed=1)
    full = model(tokens, targets, model.initial_state(B))
    state, logits = model.initial_state(B), []
    for chunk in tokens.split((1, 5, 3, 4), dim=1):
        output = model(chunk, state=state)
        state = output.state
        logits.append(output.logits)
    joined = torch.cat(logits, dim=1)
    torch.testing.assert_close(joined, full.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state["rho"], full.state["rho"], rtol=1e-9, atol=1e-9)
    expected = gradients(model, full.loss)
    for name, gradient in gradients(model, F.cross_entropy(joined.flatten(0, 1), targets.flatten())).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_x_accumulates_over_layers_and_not_over_time():
    model, tokens = tiny(), text()
    seen: dict[tuple[str, int], torch.Tensor] = {}
    with listening(lambda name, layer, tensor: seen.update({(name, layer): tensor})):
        model(tokens)
    for layer in range(1, L):
        gained = seen["x_sparse", layer] - seen["x_sparse", layer - 1]
        assert (gained >= 0).all()
        assert (gained > 0).any()
    first = torch.relu(F.layer_norm(model.embed(tokens), (16,))[:, None] @ model.encoder)
    torch.testing.assert_close(seen["x_sparse", 0], first, rtol=1e-12, atol=1e-12)
    for layer in range(L):
        product = seen["x_sparse", layer] * seen["y_sparse", layer]
        torch.testing.assert_close(seen["xy_sparse", layer], product, rtol=1e-12, atol=0)


@torch.no_grad()
def test_first_tokens_of_a_fresh_stream_predict_uniformly_one_per_layer():
    model = tiny()
    logits = model(text()).logits
    assert (logits[:, :L] == 0).all()
    assert (logits[:, L:].std(-1) > 0).all()
    carried = model(text(), state=model(text(), state=model.initial_state(B)).state).logits
    assert (carried.std(-1) > 0).all()


def test_parameters_are_those_of_bdh_and_the_function_is_not():
    model, layered = tiny(), tiny(variant="bdh")
    layered.load_state_dict(model.state_dict())
    assert model.parameter_count() == layered.parameter_count() == 3 * H * N * 16 + 2 * V * 16
    assert model.flops_per_token(9) == layered.flops_per_token(9)
    with torch.no_grad():
        assert (layered(text()).logits - model(text()).logits).abs().max() > 0.1


def test_l1_is_the_mean_of_the_accumulated_activity_and_has_a_gradient():
    model, tokens = tiny(), text()
    means = []
    model.measure_l1 = True
    with listening(lambda name, layer, tensor: means.append(tensor.mean()) if name == "x_sparse" else None):
        l1 = model(tokens).l1
    torch.testing.assert_close(l1, torch.stack(means).mean(), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(l1, model.encoder)
    assert (gradient >= 0).any()
    assert (gradient != 0).any()


@torch.no_grad()
def test_bfloat16_stays_close_to_float64():
    exact = tiny()(text()).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiny(dtype=torch.float32)(text()).logits
    assert (rough - exact).abs().mean() < 0.1 * exact.std()


def test_dropout_acts_in_training_only():
    model = build("eq8", vocab_size=V, seed=0, **TINY | {"dropout": 0.5})
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(text()).logits, model(text()).logits)
        model.eval()
        assert torch.equal(model(text()).logits, model(text()).logits)
