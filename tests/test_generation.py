"""Continuing a text: the carried state gives what reading everything again gives, in constant memory."""

from itertools import islice

import pytest
import torch

from bdh.generation import generate
from bdh.models.base import LanguageModel
from bdh.project.errors import RunError
from tests.support import variants

V = 37
PROMPT = [3, 1, 4, 1, 5]


def model_of(variant: str, **settings) -> LanguageModel:
    """A tiny model whose weights are large enough that its choices vary."""
    model = variants.tiny(variant, vocab_size=V, **settings).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model.eval()


@torch.no_grad()
def reread(model: LanguageModel, prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(model(torch.tensor([text])).logits[0, -1].argmax().item())
    return text[len(prompt) :]


@pytest.mark.parametrize("variant", variants.KINDS)
def test_greedy_generation_with_state_equals_generation_without(variant):
    model = model_of(variant)
    found = list(generate(model, PROMPT, 20, temperature=0.0))
    assert found == reread(model, PROMPT, 20)
    assert list(generate(model, PROMPT, 20, top_k=1)) == found


def test_greedy_generation_is_not_a_constant():
    assert len(set(generate(model_of("bdh"), PROMPT, 20, temperature=0.0))) > 2


def test_generation_is_a_function_of_the_seed():
    model = model_of("bdh")
    torch.manual_seed(1)
    first = list(generate(model, PROMPT, 30, seed=5))
    torch.manual_seed(2)
    assert list(generate(model, PROMPT, 30, seed=5)) == first
    assert list(generate(model, PROMPT, 30, seed=6)) != first


def test_generation_follows_the_probabilities():
    """Chi-square of 2,000 first tokens against the softmax (36 degrees of freedom, p about 1e-6), and its control."""
    model = model_of("bdh")
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0, -1] / 2.0
    draws = torch.tensor([next(generate(model, PROMPT, 1, temperature=2.0, seed=seed)) for seed in range(2000)])
    counts = torch.bincount(draws, minlength=V).double()

    def chi_square(probabilities: torch.Tensor) -> float:
        expected = 2000 * probabilities
        return ((counts - expected) ** 2 / expected).sum().item()

    assert chi_square(logits.softmax(-1)) < 92
    assert chi_square((logits / 2).softmax(-1)) > 92


def test_top_k_draws_only_from_the_most_probable():
    model = model_of("bdh")
    with torch.no_grad():
        best = set(model(torch.tensor([PROMPT])).logits[0, -1].topk(3).indices.tolist())
    drawn = {next(generate(model, PROMPT, 1, temperature=5.0, top_k=3, seed=seed)) for seed in range(60)}
    assert drawn == best


def test_memory_stays_constant_where_the_state_is_carried():
    model, sizes = model_of("bdh"), set()
    forward = model.forward

    def watched(tokens, targets=None, state=None):
        output = forward(tokens, targets, state)
        sizes.add((tokens.shape[1], sum(tensor.numel() for tensor in output.state.values())))
        return output

    model.forward = watched
    assert len(list(generate(model, PROMPT, 50))) == 50
    assert len({size for _, size in sizes}) == 1
    assert {length for length, _ in sizes} == {len(PROMPT), 1}


def test_long_prompt_is_read_in_pieces(monkeypatch):
    model, prompt = model_of("bdh"), [token % V for token in range(60)]
    whole = list(generate(model, prompt, 10, temperature=0.0))
    monkeypatch.setattr("bdh.generation.PROMPT_CHUNK", 7)
    assert list(generate(model, prompt, 10, temperature=0.0)) == whole


def test_context_limit_slides_by_reading_the_last_half_again():
    model, limit = model_of("transformer"), 32
    found = list(generate(model, PROMPT, 100, temperature=0.0))
    text = PROMPT + found
    first_over = limit + 1 - len(PROMPT)
    assert found[:first_over] == reread(model, PROMPT, first_over)
    start = 0
    for index in range(len(PROMPT), len(text)):
        if index - start > limit:
            start = index - limit // 2
        assert [text[index]] == reread(model, text[start:index], 1), index


def test_prompt_beyond_the_limit_is_cut_to_its_end():
    model, prompt = model_of("transformer"), [token % V for token in range(50)]
    assert next(generate(model, prompt, 1, temperature=0.0)) == reread(model, prompt[-32:], 1)[0]


def test_modes_of_the_caller_are_left_alone():
    model = model_of("bdh", dropout=0.5).train()
    stream = generate(model, PROMPT, 3, temperature=0.0)
    first = next(stream)
    assert model.training
    assert torch.is_grad_enabled()
    assert list(islice(stream, 2)) == list(generate(model.eval(), PROMPT, 3, temperature=0.0))[1:]
    assert first == next(generate(model, PROMPT, 1, temperature=0.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": []}, "at least one token"),
        ({"tokens": [V]}, f"token {V} of the prompt is outside"),
        ({"count": -1}, "must be at least 0"),
        ({"temperature": -0.1}, "must be at least 0"),
        ({"top_k": 0}, "top_k at least 1"),
    ],
)
def test_impossible_requests_are_refused_at_once(arguments, message):
    with pytest.raises(RunError, match=message):
        generate(model_of("bdh"), **({"tokens": PROMPT, "count": 1} | arguments))
