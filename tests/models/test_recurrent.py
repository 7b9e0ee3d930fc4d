"""The reservoirs as language models: what is trained, what is fixed, precision, and refused settings."""

import pytest
import torch

from bdh.models.base import build
from bdh.nn.probe import listening
from bdh.project.errors import ParamsError

D, N, V = 8, 24, 37


@torch.no_grad()
def test_activity_of_the_baseline_grows_without_bound_and_that_of_the_others_does_not():
    tokens = torch.randint(V, (2, 400), generator=torch.Generator().manual_seed(0))
    norms = {}
    for variant in ("recurrent", "stabilized", "neuro"):
        taps = {}
        model = build(variant, vocab_size=V, seed=0, n=N, d=D).eval()
        with listening(lambda name, layer, tensor, taps=taps: taps.update({name: tensor})):
            model(tokens)
        norms[variant] = taps["x_norm"].mean(0)
        torch.testing.assert_close(norms[variant], taps["x_sparse"][:, 0].norm(dim=-1).mean(0))
    growth = norms["recurrent"][399] / norms["recurrent"][199]
    assert 1.9 < growth < 2.1
    assert norms["stabilized"].max() <= 1
    assert norms["neuro"].max() <= 1


def test_recurrent_trains_nothing_and_reads_out_through_its_embedding():
    model = build("recurrent", vocab_size=V, seed=0, n=N, d=D)
    assert [model.trainable_parameters(regime) for regime in ("none", "readout", "full")] == [[], [], []]
    assert not model.trains
    output = model(torch.randint(V, (2, 9)), state=model.initial_state(2))
    assert not output.logits.requires_grad
    torch.testing.assert_close(output.logits[:, -1], output.state["v"] @ model.token_emb.T)


@pytest.mark.parametrize("variant", ["recurrent", "stabilized", "neuro"])
def test_trained_twins_give_every_matrix_a_gradient(variant):
    model = build(variant, vocab_size=V, seed=0, n=N, d=D, truncation=5).double().train()
    assert model.trains
    tokens = torch.randint(V, (2, 18), generator=torch.Generator().manual_seed(0))
    model(tokens[:, :-1], tokens[:, 1:]).loss.backward()
    names = dict(model.trainable_parameters("full"))
    assert {"E", "Dx", "Dy", "token_emb"} <= names.keys()
    assert all(torch.isfinite(p.grad).all() and p.grad.norm() > 0 for p in names.values())
    untrained = build(variant, vocab_size=V, seed=0, n=N, d=D).double()
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens).logits, untrained.eval()(tokens).logits)


@pytest.mark.parametrize("variant", ["recurrent", "stabilized", "neuro"])
@torch.no_grad()
def test_bfloat16_weights_leave_the_core_in_float32(variant):
    model = build(variant, vocab_size=V, seed=0, n=N, d=D).eval()
    tokens = torch.randint(V, (2, 50), generator=torch.Generator().manual_seed(0))
    rough = build(variant, vocab_size=V, seed=0, n=N, d=D).eval().to(torch.bfloat16)
    output = rough(tokens, state=rough.initial_state(2))
    assert output.logits.dtype == torch.bfloat16
    assert {t.dtype for name, t in output.state.items() if name != "position"} == {torch.float32}
    model.load_state_dict({name: tensor.float() for name, tensor in rough.state_dict().items()})
    exact = model(tokens).logits
    assert (output.logits.float() - exact).norm() <= 1e-2 * exact.norm()


def test_graph_factors_drive_x_through_e_and_dx():
    model = build("recurrent", vocab_size=V, seed=0, n=N, d=D)
    factors = model.graph_factors()
    assert factors.decoder.shape == (N, D)
    assert factors.encoder.shape == (1, D, N)
    torch.testing.assert_close(factors.decoder @ factors.encoder[0], (model.Dx @ model.E).T)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"U_weights": "0.5,0.5"}, "3 decays and U_weights 2 weights"),
        ({"U_kernels": "fast"}, "U_kernels is 'fast'; give numbers"),
        ({"branch_nl": "tanh"}, "allowed: softplus, relu"),
        ({"spike_rate": 1.5}, "shares"),
    ],
)
def test_contradictory_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(ParamsError, match=message):
        build("neuro", vocab_size=V, **settings)
