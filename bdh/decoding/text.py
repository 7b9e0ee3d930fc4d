"""Continue a text by the fastest way that the model and the machine have, called as `bdh.generation.generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bdh.decoding.decoder import Decoder
from bdh.decoding.weights import decodable
from bdh.generation import check_request, choose_token, generate
from bdh.models.base import LanguageModel

BURST = 16
"""Tokens that a GPU writes between two looks of the host."""


def continue_text(
    model: LanguageModel,
    tokens: Sequence[int],
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yield `count` tokens that continue `tokens`, a pure function of the arguments and of the kind of device.

    Where the step runs in torch operations, the tokens are those of `bdh.generation.generate` up to rounding: the same
    draws from the same probabilities. The programs of a GPU draw by other random numbers (`bdh.decoding.sampling`).
    Raises RunError for settings that cannot be met.
    """
    tokens = [int(token) for token in tokens]
    check_request(model, tokens, count, temperature, top_k)
    if not decodable(model):
        return generate(model, tokens, count, temperature, top_k, seed)
    return _continue(Decoder(model), tokens, count, temperature, top_k, seed)


def _continue(
    decoder: Decoder, tokens: list[int], count: int, temperature: float, top_k: int | None, seed: int
) -> Iterator[int]:
    decoder.start([tokens], temperature, top_k, [seed])
    if decoder.fused is not None:
        for written in range(0, count, BURST):
            yield from decoder.run(min(BURST, count - written))[0].tolist()
        return
    dice = torch.Generator().manual_seed(seed)
    token = tokens[-1]
    for _ in range(count):
        logits_V = decoder.feed(torch.tensor([token]))[0].cpu()
        token = choose_token(logits_V, temperature, top_k, dice)
        yield token
