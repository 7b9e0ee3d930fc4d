"""A training step as one CUDA graph: the host starts one program instead of hundreds or thousands.

A small model leaves a GPU idle while the host starts its programs one by one. Everything that a step does is recorded
once and replayed from then on: forward and backward pass, clipping, AdamW, local rules, pruning, weight average. What
changes from step to step stands in buffers that the graph reads: tokens, targets, which streams start anew (copied in),
learning rate and share of the average (tensors that `Update` fills). Random numbers go on as without a graph.

Steps of one kind (`LanguageModel.step_kind`) do the same with other numbers. The first of a kind runs as it is (what is
made on first use is made there), the second is recorded and replayed. Where recording fails, steps stay as they
were.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Found = tuple[Tensor, Tensor | None]
Work = Callable[..., Found]
Replay = Callable[[], None]
Recorder = Callable[[Callable[[], None]], Replay]


def record(work: Callable[[], None]) -> Replay:
    """Record what `work` starts on the GPU, without running it; RuntimeError where it does what no graph can hold."""
    graph, random = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    except RuntimeError:
        torch.cuda.set_rng_state(random)
        raise
    return graph.replay


class StepGraphs:
    """The graphs of one training, by kind of step.

    say: told in a line why a kind of step cannot be recorded. recorder: `record`, or its stand-in without a GPU.
    """

    def __init__(self, say: Callable[[str], None], recorder: Recorder = record) -> None:
        """Nothing is recorded yet."""
        self.say, self.recorder = say, recorder
        self.seen: set[Hashable] = set()
        self.replays: dict[Hashable, Replay | None] = {}
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: tuple[Tensor | None, ...] = ()

    def run(self, kind: Hashable, work: Work, inputs: tuple[Tensor, ...]) -> Found:
        """`work(*inputs)`: loss and gradient norm of a step of this kind, in tensors that no later step writes to.

        `inputs` have the same shapes in every step, and `work` does the same with them in all steps of a kind.
        """
        if kind not in self.seen:
            self.seen.add(kind)
            loss, norm = work(*inputs)
            self.outputs = self.outputs or (torch.empty_like(loss), None if norm is None else torch.empty_like(norm))
            return loss, norm
        if kind not in self.replays:
            self.replays[kind] = self._recorded(work, inputs)
        replay = self.replays[kind]
        if replay is None:
            return work(*inputs)
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        replay()
        kept, kept_norm = self.outputs
        assert kept is not None
        return kept.clone(), None if kept_norm is None else kept_norm.clone()

    def _recorded(self, work: Work, inputs: tuple[Tensor, ...]) -> Replay | None:
        self.inputs = self.inputs or tuple(tensor.clone() for tensor in inputs)

        def step() -> None:
            for own, new in zip(self.outputs, work(*self.inputs), strict=True):
                if own is not None and new is not None:
                    own.copy_(new)

        try:
            return self.recorder(step)
        except RuntimeError as problem:
            reason = (str(problem).splitlines() or ["no reason given"])[0]
            self.say(f"this step cannot be a CUDA graph ({reason}); training goes on without one")
            return None
