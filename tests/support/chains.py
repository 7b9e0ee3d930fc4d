"""Random text with first-order structure, and what a model without context makes of it."""

import torch
from torch import Tensor


def chain_of(length: int, vocab_size: int, seed: int) -> Tensor:
    """A Markov chain (length,) whose every token has a few likely successors."""
    generator = torch.Generator().manual_seed(seed)
    rows = (3 * torch.randn(vocab_size, vocab_size, generator=generator)).softmax(-1)
    choices = torch.multinomial(rows, 64, replacement=True, generator=generator)
    picks = torch.randint(64, (length,), generator=generator).tolist()
    table, token, tokens = choices.tolist(), 0, []
    for pick in picks:
        token = table[token][pick]
        tokens.append(token)
    return torch.tensor(tokens)


def unigram_nats(train: Tensor, test: Tensor, vocab_size: int) -> float:
    """Nats per token of `test` under the add-one frequencies of `train`."""
    counts = torch.bincount(train, minlength=vocab_size) + 1.0
    return float(-(counts / counts.sum()).log()[test].mean())
