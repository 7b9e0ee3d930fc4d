"""`stabilized`: x is normalised and thresholded; only the readout learns, and it learns more than frequencies."""

import pytest
import torch

from bdh.generation import generate
from bdh.models.base import build
from bdh.nn.probe import listening
from tests.support import variants
from tests.support.chains import chain_of, unigram_nats

V = 37


def model_of(**settings):
    return build("stabilized", vocab_size=V, seed=0, **({"n": 48, "d": 16} | settings))


def activities(model, tokens):
    taps = {}
    with torch.no_grad(), listening(lambda name, layer, tensor: taps.update({name: tensor})):
        model.eval()(tokens)
    return taps["x_sparse"][:, 0]


def test_stabilized_activity_is_positive_bounded_and_above_the_threshold():
    tokens = torch.randint(V, (4, 60), generator=torch.Generator().manual_seed(0))
    for ratio in (0.02, 0.3):
        x = activities(model_of(threshold_ratio=ratio), tokens)
        assert (x >= 0).all()
        assert (x.sum(-1) <= 1).all()
        largest = x.amax(-1, keepdim=True)
        assert (x[x > 0] > ratio * largest.expand_as(x)[x > 0]).all()
    assert (activities(model_of(threshold_ratio=0.3), tokens) > 0).float().mean() < (x.shape[-1] / 2)


def test_stabilized_threshold_sparsifies_more_the_higher_it_is():
    tokens = torch.randint(V, (4, 60), generator=torch.Generator().manual_seed(0))
    densities = [float((activities(model_of(threshold_ratio=r), tokens) > 0).float().mean()) for r in (0.0, 0.1, 0.4)]
    assert densities[0] > densities[1] > densities[2] > 0


@pytest.mark.parametrize("regime", ["readout", "full"])
def test_stabilized_trains_its_readout_and_nothing_else(regime):
    model = model_of()
    assert [name for name, _ in model.trainable_parameters(regime)] == ["lm_head.weight", "lm_head.bias"]
    tokens = torch.randint(V, (2, 20), generator=torch.Generator().manual_seed(0))
    model(tokens[:, :-1], tokens[:, 1:]).loss.backward()
    assert model.lm_head.weight.grad.norm() > 0
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("lm_head"))


@pytest.mark.parametrize(
    ("variant", "learning_rate", "steps"),
    [("stabilized", 0.03, 80), ("neuro", 0.03, 80), ("recurrent_trained", 0.01, 80), ("neuro_trained", 0.01, 50)],
)
def test_trained_reservoirs_beat_the_unigram_on_text_with_structure(variant, learning_rate, steps):
    torch.manual_seed(0)
    text = chain_of(20000, V, seed=0)
    model = variants.model_of(variant, vocab_size=V, n=48, d=16).train()
    optimizer = torch.optim.Adam([p for _, p in model.trainable_parameters("full")], lr=learning_rate)
    generator = torch.Generator().manual_seed(1)
    held_out = text[16000:].unfold(0, 33, 33)
    for _ in range(steps):
        starts = torch.randint(16000 - 33, (32, 1), generator=generator)
        windows = text[starts + torch.arange(33)]
        optimizer.zero_grad()
        model(windows[:, :-1], windows[:, 1:]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(held_out[:, :-1], held_out[:, 1:]).loss.item()
        fresh = variants.model_of(variant, vocab_size=V, n=48, d=16).eval()
        untrained = fresh(held_out[:, :-1], held_out[:, 1:]).loss.item()
    bound = unigram_nats(text[:16000], text[16000:], V)
    assert found < bound - 0.02, (found, bound)
    assert untrained > bound


@pytest.mark.parametrize("variant", ["recurrent", "stabilized", "neuro", "neuro_multiscale", "neuro_trained"])
def test_reservoirs_generate_token_by_token_as_if_reading_again(variant):
    model = variants.model_of(variant, vocab_size=V, n=24, d=8).double().eval()
    prompt = [3, 1, 4, 1, 5]
    text = list(generate(model, prompt, 12, temperature=0))
    reread = list(prompt)
    with torch.no_grad():
        for _ in range(12):
            reread.append(int(model(torch.tensor([reread])).logits[0, -1].argmax()))
    assert text == reread[5:]
