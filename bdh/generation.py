"""Continue a text token by token.

`continue_text` takes the fastest way that the model and the machine have; `generate` reads with the model itself, any
variant. A model whose state has constant size reads every token once and never again: memory does not grow with the
text. A model with a limit (`max_positions`) keeps its cache until it is full; then the last half of what it can hold is
read into a fresh cache, so that a token is read about twice on average and always sees between half of the limit and
all of it. A prompt longer than the limit is cut to its last `max_positions` tokens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bdh.kernels.decoding.decoder import Decoder
from bdh.models.base import LanguageModel, State
from bdh.project.errors import RunError

PROMPT_CHUNK = 512


def generate(
    model: LanguageModel,
    tokens: Sequence[int],
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yield `count` tokens that continue `tokens`, a pure function of the arguments.

    temperature: logits are divided by it; 0 takes the most probable token. top_k: sample among that many of the most
    probable tokens (None: among all). The model reads in evaluation mode and without gradients; its own mode is the
    same again whenever a token has been yielded. Raises RunError for settings that cannot be met.
    """
    tokens = [int(token) for token in tokens]
    check_request(model, tokens, count, temperature, top_k, seed)
    return _continue(model, tokens, count, temperature, top_k, torch.Generator().manual_seed(seed))


def _continue(
    model: LanguageModel, tokens: list[int], count: int, temperature: float, top_k: int | None, dice: torch.Generator
) -> Iterator[int]:
    reader = _Reader(model)
    unread = tokens
    for _ in range(count):
        logits_V = reader.read(unread)
        token = choose_token(logits_V, temperature, top_k, dice)
        unread = [token]
        yield token


class _Reader:
    """One stream: the model's state and, where the model has a limit, the text that may have to be read again."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.limit = model.max_positions()
        self.recent: deque[int] = deque(maxlen=self.limit or 0)
        self.position = 0
        self.state: State | None = None

    def read(self, tokens: list[int]) -> Tensor:
        """Logits (V,) float32 at least, on the CPU, for the token after `tokens`, which follow what was read before."""
        if self.limit is not None:
            self.recent.extend(tokens)
            if self.position + len(tokens) > self.limit:
                keep = len(self.recent) if self.state is None else max(1, self.limit // 2)
                tokens, self.state = list(self.recent)[-keep:], None
        return self._advance(tokens)

    @torch.no_grad()
    def _advance(self, tokens: list[int]) -> Tensor:
        mode = self.model.training
        self.model.eval()
        try:
            if self.state is None:
                self.state, self.position = self.model.initial_state(1), 0
            for start in range(0, len(tokens), PROMPT_CHUNK):
                chunk = tokens[start : start + PROMPT_CHUNK]
                output = self.model(torch.tensor([chunk], device=_device(self.model)), state=self.state)
                self.state = output.state
                self.position += len(chunk)
        finally:
            self.model.train(mode)
        logits_V = output.logits[0, -1].cpu()
        return logits_V if logits_V.dtype == torch.float64 else logits_V.float()


def choose_token(logits_V: Tensor, temperature: float, top_k: int | None, dice: torch.Generator) -> int:
    """Draw from the softmax of `logits_V` / temperature among the top_k likeliest; the likeliest at temperature 0."""
    if temperature == 0.0:
        return int(logits_V.argmax())
    kept = torch.topk(logits_V, min(top_k or len(logits_V), len(logits_V)))
    probabilities = torch.softmax(kept.values / temperature, dim=-1)
    return int(kept.indices[torch.multinomial(probabilities, 1, generator=dice)])


def _device(model: LanguageModel) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def check_request(
    model: LanguageModel, tokens: list[int], count: int, temperature: float, top_k: int | None, seed: int = 0
) -> None:
    """Raise RunError for what `generate` cannot do."""
    if not tokens:
        raise RunError("generation needs a prompt of at least one token")
    outside = [token for token in tokens if not 0 <= token < model.vocab_size]
    if outside:
        raise RunError(f"token {outside[0]} of the prompt is outside the model's vocabulary of {model.vocab_size}")
    if not 0 <= seed < 2**63:
        raise RunError(f"seed {seed} is outside the allowed range, 0 to {2**63 - 1}")
    if count < 0 or not 0.0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise RunError(
            f"generation of {count} tokens at temperature {temperature} among top_k {top_k}: "
            "count and temperature must be at least 0 and finite, top_k at least 1"
        )


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

    Where the step runs in torch operations, the tokens are those of `generate` up to rounding: the same
    draws from the same probabilities. The programs of a GPU draw by other random numbers
    (`bdh.kernels.decoding.reference`).
    Raises RunError for settings that cannot be met.
    """
    tokens = [int(token) for token in tokens]
    check_request(model, tokens, count, temperature, top_k, seed)
    if model.decoding_weights() is None:
        return generate(model, tokens, count, temperature, top_k, seed)
    return _continue_fast(Decoder(model), tokens, count, temperature, top_k, seed)


def _continue_fast(
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
