"""One arm of stage B alone, and the same read one window of one stream at a time, for tests."""

import torch

from bdh.hebbian.arms import ARMS, Readings
from bdh.models.base import damp_state
from bdh.params import Hebbian


def hebbian_settings(damping=0.97, sweep=(), bootstrap=200):
    """A section `hebbian` of params.yaml."""
    scale = {"window": 16, "max_tokens": 10_000}
    own = {"damping": damping, "damping_sweep": list(sweep), "bootstrap": bootstrap}
    return Hebbian(eta=0.005, snapshot_every=20, laptop=scale, gpu=scale, **own)


def nats_of(arm, model, text, damping=0.97, activity=None):
    return ARMS[arm].read(Readings(model, text, [damping], activity=activity))


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
