"""Read windows of held-out text with a frozen model and keep the surprisal of every scored token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.hebbian.activity import Activity
from bdh.hebbian.held_out import HeldOut
from bdh.models.base import LanguageModel, State
from bdh.nn.probe import listening

Destinations = Sequence[tuple[np.ndarray, int]]
"""Arrays (P) that take what one stream has read, each from one place of the text on."""

MOST_TOKENS = 16384
MOST_ON_GPU = 2**17
LOGITS_AT_ONCE = 2**32
WORK_AT_ONCE = {"cpu": 2.5e9, "cuda": 6.5e12}
STATE_AT_ONCE = {"cpu": 2**29, "cuda": 2**33}


class Reader:
    """Reads windows of `text` with `model` in evaluation mode, without gradients, in float32 unless `bfloat16`.

    `nats` (P, float64) holds the surprisal of every scored token that was read, NaN before. On a GPU numbers come back
    when `settle` is called, so that it never waits for the host. `activity` watches the activations when it is given.
    With `bfloat16` on a GPU, products that stay in float32 (those with a state) are made of TF32 operands.
    Random draws inside a model (stochastic spikes) depend on the number of the call alone, so that two readers that
    read the same windows in the same order agree.
    """

    def __init__(
        self,
        model: LanguageModel,
        text: HeldOut,
        *,
        device: torch.device | str = "cpu",
        bfloat16: bool = False,
        activity: Activity | None = None,
    ) -> None:
        """Nothing is read yet; `model` is moved nowhere and must already be on `device`."""
        self.model = model.eval()
        self.text = text
        self.device = torch.device(device)
        self.bfloat16 = bfloat16
        self.activity = activity
        self.nats = np.full(text.scored, np.nan)
        self.calls = 0
        self.defers = self.device.type != "cpu"
        self._inputs_P = torch.from_numpy(np.ascontiguousarray(text.inputs)).to(self.device)
        self._targets_P = torch.from_numpy(np.ascontiguousarray(text.targets)).to(self.device)
        self._waiting: list[tuple[Tensor, list[int], list[int], list[Destinations]]] = []

    def streams_at_once(self, tokens: int, *, stateful: bool = False) -> int:
        """How many streams of `tokens` tokens are read in one call, by the work that they make.

        2.5 GFLOP a call on a CPU (what stays near the caches), never more than 16384 tokens; on a GPU 6.5 TFLOP, 4 GiB
        of logits in float32 and 131,072 tokens: a small model that reads token by token takes as long for many streams
        as for few. With `stateful` the states of the streams also stay below 512 MiB on a CPU and 8 GiB on a GPU.
        """
        kind = self.device.type if self.device.type in WORK_AT_ONCE else "cpu"
        tokens_at_once = MOST_TOKENS
        if kind == "cuda":
            tokens_at_once = min(MOST_ON_GPU, LOGITS_AT_ONCE // (4 * self.model.vocab_size))
        most = min(tokens_at_once, WORK_AT_ONCE[kind] / self.model.flops_per_token(self.text.window))
        streams = int(most // tokens)
        if stateful:
            streams = min(streams, STATE_AT_ONCE[kind] // max(1, self.model.state_bytes()))
        return max(1, streams)

    def read(
        self, windows: Sequence[int], state: State | None = None, into: Sequence[Sequence[np.ndarray]] | None = None
    ) -> State | None:
        """Read `windows` side by side, one stream each, and note the surprisal of their targets.

        Shorter windows are padded at the end, which a causal model cannot see; the state of a padded stream is
        meaningless afterwards. `into` (P arrays, some per stream) take the surprisal in the place of `nats`.
        Returns the new state when one came in.
        """
        bounds = self.text.bounds
        begins = [int(bounds[window]) for window in windows]
        ends = [int(bounds[window + 1]) for window in windows]
        arrays = [[self.nats]] * len(begins) if into is None else into
        places = [[(array, begin) for array in found] for found, begin in zip(arrays, begins, strict=True)]
        return self.read_spans(begins, ends, places, state, windows=windows)

    def read_spans(
        self,
        begins: Sequence[int],
        ends: Sequence[int],
        into: Sequence[Destinations],
        state: State | None = None,
        *,
        windows: Sequence[int] = (),
    ) -> State | None:
        """Like `read`, of spans begin..end of the text's tokens; what each array takes begins at a place of its own."""
        longest = max(end - begin for begin, end in zip(begins, ends, strict=True))
        if self.activity is not None:
            first = [min((start for _, start in found), default=end) for found, end in zip(into, ends, strict=True)]
            places_BT = np.array(begins)[:, None] + np.arange(longest)
            scored_BT = (places_BT >= np.array(first)[:, None]) & (places_BT < np.array(ends)[:, None])
            self.activity.expect(windows, torch.from_numpy(scored_BT).to(self.device), places_BT[scored_BT])
        nats_BT, state = self._surprisal(begins, ends, longest, state)
        self._waiting.append((nats_BT, list(begins), list(ends), list(into)))
        if not self.defers:
            self.settle()
        return state

    def settle(self) -> np.ndarray:
        """Bring home all that was read; returns `nats`."""
        found = [nats_BT.double().cpu().numpy() for nats_BT, *_ in self._waiting]
        for nats_BT, (_, begins, ends, into) in zip(found, self._waiting, strict=True):
            for nats_T, begin, end, arrays in zip(nats_BT, begins, ends, into, strict=True):
                for array, start in arrays:
                    kept = max(start, begin)
                    array[kept:end] = nats_T[kept - begin : end - begin]
        self._waiting.clear()
        return self.nats

    def _surprisal(
        self, begins: Sequence[int], ends: Sequence[int], longest: int, state: State | None
    ) -> tuple[Tensor, State | None]:
        """Surprisal B,T of the targets (meaningless past the end of a stream) and the state after them."""
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        watch = nullcontext() if self.activity is None else listening(self.activity)
        cuda = [self.device] if self.device.type == "cuda" else []
        begin_B1, end_B1 = (torch.tensor(part, device=self.device).unsqueeze(1) for part in (begins, ends))
        places_BT = begin_B1 + torch.arange(longest, device=self.device)
        inside_BT = places_BT < end_B1
        places_BT = places_BT.clamp(max=self.text.scored - 1)
        inputs_BT, targets_BT = (part[places_BT] * inside_BT for part in (self._inputs_P, self._targets_P))
        with torch.no_grad(), torch.random.fork_rng(cuda), autocast, watch, _tf32(self.bfloat16 and bool(cuda)):
            torch.manual_seed(self.calls)
            self.calls += 1
            output = self.model(inputs_BT, state=state)
            logits_BTV = output.logits if output.logits.dtype == torch.float64 else output.logits.float()
            nats_BT = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
        return nats_BT.view(targets_BT.shape), output.state


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Let a GPU round the operands of float32 products to 11 bits inside the block, if it is `wanted`."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def weights_sha256(model: LanguageModel) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
