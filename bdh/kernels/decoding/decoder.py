"""Streams that are read and continued together, each token in the same time and memory as the one before."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bdh.kernels.decoding.memory import Decodable, Memory
from bdh.kernels.decoding.reference import PlainStep, choose, prefill
from bdh.project.errors import RunError

WINDOW = 64
ENGINES = ("auto", "plain", "fused")


def fused_available(device: torch.device) -> bool:
    """Whether the Triton programs run there: a GPU with bfloat16, and triton installed."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


class Decoder:
    """B streams of one model on the model's device; RunError for a model without `decoding_weights`.

    engine: `fused` runs Triton programs, on a GPU replayed from a CUDA graph, with bfloat16 weights and products and a
    float32 state; `plain` runs torch operations in the model's own precision; `auto` takes fused where it runs.
    narrow: another type for weights and products (float32 keeps all of them). window: tokens that wait before they are
    folded into the state, a power of two of at least 16 for `fused`. early: programs overlap, by default where the GPU
    can. tiles: `few.FewTiles` or `many.ManyTiles`, by default the one for that number of streams.
    """

    def __init__(
        self,
        model: Decodable,
        streams: int = 1,
        window: int = WINDOW,
        engine: str = "auto",
        narrow: torch.dtype | None = None,
        early: bool | None = None,
        tiles: Any = None,
    ) -> None:
        assert engine in ENGINES, engine
        weights = model.decoding_weights()
        if weights is None:
            raise RunError(
                f"{type(model).__module__} has no state that can be decoded here; use bdh.generation.generate"
            )
        self.weights = weights
        device = self.weights.encoder.device
        fused = engine == "fused" or (engine == "auto" and fused_available(device))
        narrow = narrow or (torch.bfloat16 if fused else self.weights.wide)
        self.memory = Memory(self.weights, streams, window, narrow)
        self.waiting = 0
        self.settings = {
            "temperature": torch.ones(streams, device=device),
            "top_k": torch.zeros(streams, dtype=torch.int32, device=device),
            "seed": torch.arange(streams, device=device),
        }
        self.plain = None if fused else PlainStep(self.weights, self.memory)
        self.fused: Any = self._fused(early, tiles) if fused else None
        self.graph = self._captured() if fused and device.type == "cuda" else None

    def _fused(self, early: bool | None, tiles: Any) -> Any:
        """The programs for this number of streams, or those whose tiles are given."""
        from bdh.kernels.decoding import few, many
        from bdh.kernels.decoding.common import SamplingSettings

        device, streams = self.memory.tokens.device, len(self.memory.tokens)
        if early is None:
            early = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        chosen = isinstance(tiles, few.FewTiles) if tiles is not None else streams <= few.MOST
        step = few.FewStreams if chosen else many.ManyStreams
        return step(self.weights, self.memory, SamplingSettings(**self.settings), early, tiles)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """A step as a graph; the runs before it compile the programs, and what they wrote is forgotten."""
        with torch.cuda.device(self.memory.tokens.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):
                    self.fused()
                self.fused.fold()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.fused()
            self.memory.clear()
        return graph

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        temperature: float = 1.0,
        top_k: int | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Forget all streams and read one prompt into each; the last token of a prompt is left for the first step.

        seeds: one per stream, by default its number. Raises RunError for a number of prompts or seeds that is not the
        number of streams and for an empty prompt.
        """
        streams = len(self.memory.tokens)
        if len(prompts) != streams or len(seeds or prompts) != streams or not all(prompts):
            raise RunError(f"{streams} streams need as many prompts of at least one token, and one seed each if any")
        self.memory.clear()
        self.waiting = 0
        self.settings["temperature"].fill_(temperature)
        self.settings["top_k"].fill_(top_k or 0)
        self.settings["seed"].copy_(torch.tensor(seeds if seeds is not None else range(streams)))
        prefill(self.weights, self.memory, [prompt[:-1] for prompt in prompts])
        self.memory.tokens.copy_(torch.tensor([prompt[-1] for prompt in prompts]))

    def run(self, count: int) -> Tensor:
        """The next `count` tokens of every stream, (B,count) int64 on the CPU. The host waits once per window."""
        pieces = [torch.empty(len(self.memory.tokens), 0, dtype=torch.int64)]
        left = count
        while left:
            self._make_room()
            steps, start = min(left, self.memory.window - self.waiting), self.waiting
            if self.plain is not None:
                pieces.append(torch.stack([self._plain_step() for _ in range(steps)], dim=1).cpu())
            else:
                for _ in range(steps):
                    self._fused_step()
                pieces.append(self.fused.history[:, start : start + steps].cpu())
            left -= steps
        return torch.cat(pieces, dim=1)

    def feed(self, tokens_B: Tensor) -> Tensor:
        """Logits (B,V) after `tokens_B`, which replace the tokens that the streams would have read next."""
        self._make_room()
        self.memory.tokens.copy_(tokens_B)
        if self.plain is not None:
            self.waiting += 1
            return self.plain(self.waiting - 1)
        self._fused_step()
        return self.fused.logits.clone()

    def fold(self) -> None:
        """Fold the tokens that wait into the state, as happens by itself when the window is full."""
        if self.waiting:
            self.memory.fold() if self.fused is None else self.fused.fold()
            self.waiting = 0

    def state(self) -> dict[str, Tensor]:
        """The state of all streams as the model carries it: `rho` (B,L,H,N,D), `position` (B,)."""
        self.fold()
        return self.memory.state()

    def _make_room(self) -> None:
        if self.waiting == self.memory.window:
            self.fold()

    def _plain_step(self) -> Tensor:
        assert self.plain is not None
        memory, settings = self.memory, self.settings
        self.waiting += 1
        logits_BV = self.plain(self.waiting - 1)
        next_B = choose(logits_BV, position_B=memory.position, **{f"{name}_B": settings[name] for name in settings})
        memory.tokens.copy_(next_B)
        return next_B

    def _fused_step(self) -> None:
        self.waiting += 1
        if self.graph is not None:
            self.graph.replay()
        else:
            self.fused()
