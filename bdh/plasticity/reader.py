"""Read windows of held-out text with a frozen model and keep the surprisal of every scored token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from bdh.models.base import LanguageModel, State
from bdh.nn.probe import listening
from bdh.plasticity.activity import Activity
from bdh.plasticity.held_out import HeldOut

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}


class Reader:
    """Reads windows of `text` with `model` in evaluation mode, without gradients, in float32 unless `bfloat16`.

    `nats` (P, float64) holds the surprisal of every scored token that was read, NaN before. `activity` watches the
    activations when it is given; arms that carry a document's own state show it to `on_state(windows, state)`.
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
        on_state: Callable[[list[int], State], None] | None = None,
    ) -> None:
        """Nothing is read yet; `model` is moved nowhere and must already be on `device`."""
        self.model = model.eval()
        self.text = text
        self.device = torch.device(device)
        self.bfloat16 = bfloat16
        self.activity = activity
        self.on_state = on_state or (lambda windows, state: None)
        self.nats = np.full(text.scored, np.nan)
        self.calls = 0
        self._document_starts = text.document_starts()

    def streams_at_once(self, tokens: int) -> int:
        """How many streams of `tokens` tokens are read in one call."""
        return max(1, TOKENS_AT_ONCE.get(self.device.type, 2048) // tokens)

    def read(
        self,
        windows: Sequence[int],
        state: State | None = None,
        *,
        context: int = 0,
        through: Sequence[int] | None = None,
    ) -> State | None:
        """Read `windows` side by side, one stream each, and note the surprisal of their targets.

        Shorter windows are padded at the end, which a causal model cannot see; the state of a padded stream is
        meaningless afterwards. `context` tokens of the same document are read before each window and not scored.
        With `through` a stream goes on to the end of that window of the same document, all of it scored.
        Returns the new state when one came in.
        """
        bounds, starts = self.text.bounds, self._document_starts
        begins = [max(int(starts[w]), int(bounds[w]) - context) for w in windows]
        ends = [int(bounds[w + 1]) for w in (windows if through is None else through)]
        longest = max(end - begin for begin, end in zip(begins, ends, strict=True))
        inputs_BT = np.zeros((len(windows), longest), dtype=np.int64)
        targets_BT = np.zeros_like(inputs_BT)
        scored_BT = np.zeros_like(inputs_BT, dtype=bool)
        for row, (window, begin, end) in enumerate(zip(windows, begins, ends, strict=True)):
            inputs_BT[row, : end - begin] = self.text.inputs[begin:end]
            targets_BT[row, : end - begin] = self.text.targets[begin:end]
            scored_BT[row, int(bounds[window]) - begin : end - begin] = True
        nats_BT, state = self._surprisal(inputs_BT, targets_BT, scored_BT, windows, state)
        for row, (window, end) in enumerate(zip(windows, ends, strict=True)):
            self.nats[bounds[window] : end] = nats_BT[row][scored_BT[row]]
        return state

    def _surprisal(
        self,
        inputs_BT: np.ndarray,
        targets_BT: np.ndarray,
        scored_BT: np.ndarray,
        windows: Sequence[int],
        state: State | None,
    ) -> tuple[np.ndarray, State | None]:
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        watch = nullcontext()
        if self.activity is not None:
            places_BT = np.cumsum(scored_BT, axis=1) - 1 + self.text.bounds[list(windows)][:, None]
            self.activity.expect(windows, torch.from_numpy(scored_BT).to(self.device), places_BT[scored_BT])
            watch = listening(self.activity)  # type: ignore[assignment]
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
