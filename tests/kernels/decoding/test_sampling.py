"""Drawing without a generator: the right probabilities, a function of seed and place, one stream apart from another."""

import pytest
import torch

from bdh.kernels.decoding.decoder import Decoder
from bdh.kernels.decoding.reference import choose, exponentials
from tests.support.decoding_cases import V, model_of

DRAWS = 4000


def settings_of(streams, temperature, top_k=0):
    return torch.full((streams,), temperature), torch.full((streams,), top_k, dtype=torch.int32)


def drawn(logits_V, temperature, top_k=0, by="position"):
    """DRAWS tokens at one place each, or with one seed each."""
    one, many = torch.zeros(DRAWS, dtype=torch.int64), torch.arange(DRAWS)
    seed, position = (one, many) if by == "position" else (many, one)
    return choose(logits_V.expand(DRAWS, -1), *settings_of(DRAWS, temperature, top_k), seed, position)


def chi_square(tokens, probabilities):
    expected = DRAWS * probabilities
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    return (((counts - expected) ** 2)[expected > 0] / expected[expected > 0]).sum().item()


@pytest.mark.parametrize("by", ["position", "seed"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(by, temperature):
    """Chi-square with 36 degrees of freedom, p about 1e-6, and its control."""
    logits = torch.randn(V, generator=torch.Generator().manual_seed(0))
    tokens = drawn(logits, temperature, by=by)
    assert chi_square(tokens, (logits.double() / temperature).softmax(0)) < 92
    assert chi_square(tokens, (logits.double() / temperature / 2).softmax(0)) > 92


def test_top_k_keeps_the_softmax_of_the_likeliest():
    logits = torch.randn(V, generator=torch.Generator().manual_seed(0))
    best = logits.topk(5)
    probabilities = torch.zeros(V, dtype=torch.float64).scatter(0, best.indices, best.values.double().softmax(0))
    tokens = drawn(logits, 1.0, top_k=5)
    assert set(tokens.tolist()) == set(best.indices.tolist())
    assert chi_square(tokens, probabilities) < 44
    assert set(drawn(logits, 1.0, top_k=V + 3).tolist()) == set(drawn(logits, 1.0).tolist())


def test_temperature_zero_takes_the_likeliest_whatever_top_k():
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(0))
    for top_k in (0, 1, 4):
        found = choose(logits, *settings_of(6, 0.0, top_k), torch.arange(6), torch.arange(6))
        assert torch.equal(found, logits.argmax(1))


def test_numbers_are_exponential_and_unrelated_across_places_seeds_and_tokens():
    many = torch.arange(2000)
    for found in (
        exponentials(many, many * 0, 50),
        exponentials(many * 0, many, 50),
        exponentials(many * 0, many << 32, 50),
    ):
        assert abs(found.mean().item() - 1) < 0.02
        assert abs(found.var().item() - 1) < 0.05
        assert len(found.flatten().unique()) > 0.99 * found.numel()
        centred = (found - 1).double()
        assert (centred[1:] * centred[:-1]).mean().abs() < 0.02
        assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 0.02


def test_a_stream_writes_the_same_alone_and_beside_others():
    model = model_of()
    alone, beside = Decoder(model, 1, 8), Decoder(model, 3, 8)
    alone.start([[5, 6]], seeds=[11])
    beside.start([[1], [5, 6], [5, 6]], seeds=[11, 11, 12])
    text, others = alone.run(30)[0], beside.run(30)
    assert torch.equal(others[1], text)
    assert not torch.equal(others[2], text)


def test_running_in_pieces_changes_nothing():
    model, whole, pieces = model_of(), Decoder(model_of(), 2, 8), Decoder(model_of(), 2, 8)
    for decoder in (whole, pieces):
        decoder.start([[1, 2], [3]], temperature=0.8, top_k=9)
    assert torch.equal(torch.cat([pieces.run(n) for n in (1, 0, 6, 13)], dim=1), whole.run(20))
    assert model.training is False


def test_first_tokens_of_many_streams_follow_the_model():
    model = model_of()
    with torch.no_grad():
        logits = model(torch.tensor([[3, 1, 4]])).logits[0, -1]
    decoder = Decoder(model, 1000, 4)
    decoder.start([[3, 1, 4]] * 1000, temperature=3.0)
    counts = torch.bincount(decoder.run(1)[:, 0], minlength=V).double()
    for heat, fits in ((3.0, True), (1.0, False)):
        expected = 1000 * (logits / heat).softmax(0)
        assert (((counts - expected) ** 2 / expected).sum().item() < 92) is fits
