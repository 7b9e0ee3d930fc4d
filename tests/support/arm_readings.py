"""One arm of stage B alone, and the same read one window of one stream at a time, for tests."""

import torch

from bdh.hebbian.arms import ARMS
from bdh.hebbian.reader import Reader
from bdh.models.base import damp_state


def nats_of(arm, model, text, damping=0.97, activity=None):
    reader = Reader(model, text, activity=activity)
    ARMS[arm].read(reader, damping)
    return reader.nats


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
