"""One arm of stage B alone, and the same read one window of one stream at a time, for tests."""

import numpy as np
import torch

from bdh.hebbian.arms import ARMS, Readings
from bdh.models.base import damp_state
from bdh.params import Hebbian


def hebbian_settings(damping=0.97, sweep=(), bootstrap=200, overlaps=(0.5, 0.25)):
    """A section `hebbian` of params.yaml."""
    scale = {"window": 16, "max_tokens": 10_000}
    own = {"damping": damping, "damping_sweep": list(sweep), "bootstrap": bootstrap, "overlaps": list(overlaps)}
    return Hebbian(eta=0.005, snapshot_every=20, laptop=scale, gpu=scale, **own)


def nats_of(arm, model, text, damping=0.97, activity=None):
    return ARMS[arm].read(Readings(model, text, [damping], activity=activity))


def moved_by_hand(model, text, move):
    """Surprisal of every scored token of windows moved by `move` tokens, one token of one window at a time."""
    model.eval()
    nats = np.full(text.scored, np.nan)
    for place in range(text.scored):
        first = place - (text.position[place] - 1)
        last = text.token_document.searchsorted(text.token_document[place], side="right")
        begin = first
        while place >= begin + text.window:
            begin += move
        span = slice(begin, min(begin + text.window, last))
        with torch.no_grad():
            logits = model(torch.from_numpy(text.inputs[span])[None]).logits[0, place - begin]
        nats[place] = torch.nn.functional.cross_entropy(logits, torch.tensor(text.targets[place]))
    return nats


def by_hand(model, text, arm, damping=0.97):
    """Surprisal of every scored token, one window of one stream at a time."""
    model.eval()
    nats, state = [], None
    for window in range(text.windows):
        inputs, targets = (
            torch.from_numpy(part[text.bounds[window] : text.bounds[window + 1]])[None]
            for part in (text.inputs, text.targets)
        )
        fresh = arm == "static" or window == 0 or text.document[window] != text.document[window - 1]
        if arm == "carry_corpus":
            fresh = window == 0
        state = model.initial_state(1) if fresh else damp_state(state, damping ** text.lengths[window - 1])
        with torch.no_grad():
            output = model(inputs, state=None if arm == "static" else state)
        state = output.state
        nats.append(torch.nn.functional.cross_entropy(output.logits[0], targets[0], reduction="none"))
    return torch.cat(nats).double().numpy()
