"""Read windows of held-out text with a frozen model and keep the surprisal of every scored token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from bdh.hebbian.activity import Activity
from bdh.hebbian.held_out import HeldOut
from bdh.models.base import LanguageModel, State
from bdh.nn.probe import listening

MOST_TOKENS = 16384
WORK_AT_ONCE = {"cpu": 2.5e9, "cuda": 6.5e12}
STATE_AT_ONCE = {"cpu": 2**29, "cuda": 2**33}


class Reader:
    """Reads windows of `text` with `model` in evaluation mode, without gradients, in float32 unless `bfloat16`.

    `nats` (P, float64) holds the surprisal of every scored token that was read, NaN before. `activity` watches the
    activations when it is given.
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

    def streams_at_once(self, tokens: int, *, stateful: bool = False) -> int:
        """How many streams of `tokens` tokens are read in one call, by the work that they make.

        2.5 GFLOP a call on a CPU (what stays near the caches), 6.5 TFLOP on a GPU, never more than 16384 tokens; with
        `stateful` the states of the streams also stay below 512 MiB on a CPU and 8 GiB on a GPU.
        """
        kind = self.device.type if self.device.type in WORK_AT_ONCE else "cpu"
        most = min(MOST_TOKENS, WORK_AT_ONCE[kind] / self.model.flops_per_token(self.text.window))
        streams = int(most // tokens)
        if stateful:
            streams = min(streams, STATE_AT_ONCE[kind] // max(1, self.model.state_bytes()))
        return max(1, streams)

    def read(
        self, windows: Sequence[int], state: State | None = None, into: Sequence[np.ndarray] | None = None
    ) -> State | None:
        """Read `windows` side by side, one stream each, and note the surprisal of their targets.

        Shorter windows are padded at the end, which a causal model cannot see; the state of a padded stream is
        meaningless afterwards. `into` (one P array per stream) takes the surprisal in the place of `nats`.
        Returns the new state when one came in.
        """
        bounds = self.text.bounds
        begins = [int(bounds[window]) for window in windows]
        ends = [int(bounds[window + 1]) for window in windows]
        return self.read_spans(begins, ends, begins, state, into=into, windows=windows)

    def read_spans(
        self,
        begins: Sequence[int],
        ends: Sequence[int],
        scored_from: Sequence[int],
        state: State | None = None,
        *,
        into: Sequence[np.ndarray] | None = None,
        windows: Sequence[int] = (),
    ) -> State | None:
        """Like `read`, of spans begin..end of the text's tokens, of which those from `scored_from` on are scored."""
        longest = max(end - begin for begin, end in zip(begins, ends, strict=True))
        inputs_BT = np.zeros((len(begins), longest), dtype=np.int64)
        targets_BT = np.zeros_like(inputs_BT)
        places_BT = np.array(begins)[:, None] + np.arange(longest)
        scored_BT = (places_BT >= np.array(scored_from)[:, None]) & (places_BT < np.array(ends)[:, None])
        for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            inputs_BT[row, : end - begin] = self.text.inputs[begin:end]
            targets_BT[row, : end - begin] = self.text.targets[begin:end]
        if self.activity is not None:
            scored = torch.from_numpy(scored_BT).to(self.device)
            self.activity.expect(windows, scored, places_BT[scored_BT])
        nats_BT, state = self._surprisal(inputs_BT, targets_BT, state)
        for row, places in enumerate(places_BT):
            kept = scored_BT[row]
            (self.nats if into is None else into[row])[places[kept]] = nats_BT[row][kept]
        return state

    def _surprisal(
        self,
        inputs_BT: np.ndarray,
        targets_BT: np.ndarray,
        state: State | None,
    ) -> tuple[np.ndarray, State | None]:
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        watch = nullcontext() if self.activity is None else listening(self.activity)
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(cuda), autocast, watch:
            torch.manual_seed(self.calls)
            self.calls += 1
            output = self.model(torch.from_numpy(inputs_BT).to(self.device), state=state)
            logits_BTV = output.logits if output.logits.dtype == torch.float64 else output.logits.float()
            targets = torch.from_numpy(targets_BT).to(self.device)
            nats_BT = F.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), reduction="none")
        return nats_BT.view(targets_BT.shape).double().cpu().numpy(), output.state


def weights_sha256(model: LanguageModel) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
