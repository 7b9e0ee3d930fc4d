"""The arms of stage B: frozen weights, the same held-out tokens, and one rule each for what a window may know.

A new arm is one function of (reader, damping) and one line of `ARMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bdh.models.base import LanguageModel, damp_state
from bdh.plasticity import living
from bdh.plasticity.held_out import HeldOut
from bdh.plasticity.reader import Reader

REACH = 0.01


@dataclass(frozen=True)
class Arm:
    """One row of the results.

    question: what it answers. read: reads the whole text with a reader at a damping per token. obstacle: why a model
    cannot run it on this text, None when it can. watched: activations are observed while it runs.
    """

    question: str
    read: Callable[[Reader, float], None]
    obstacle: Callable[[LanguageModel, HeldOut, float], str | None]
    watched: bool = False


def read_static(reader: Reader, damping: float) -> None:
    """Every window is a fresh stream; windows of equal length are read side by side."""
    order = np.argsort(-reader.text.lengths, kind="stable")
    at_once = reader.streams_at_once(reader.text.window)
    for start in range(0, order.size, at_once):
        reader.read([int(window) for window in order[start : start + at_once]])


def read_carry(reader: Reader, damping: float) -> None:
    """The state goes from window to window of a document, damped by damping**window at every boundary."""
    reader.nats[:] = living.read(reader, [damping]).carry[damping]


def read_carry_corpus(reader: Reader, damping: float) -> None:
    """One stream over all documents in order; the state survives the end of a document."""
    state = reader.model.initial_state(1)
    lengths = reader.text.lengths
    for window in range(reader.text.windows):
        if window:
            state = damp_state(state, damping ** int(lengths[window - 1]))
        state = reader.read([window], state) or {}


def read_shuffled(reader: Reader, damping: float) -> None:
    """Like `carry`, but every window after a document's first gets the state that another document carried there."""
    reader.nats[:] = living.read(reader, [damping], donors=True).shuffled


def read_longer_context(reader: Reader, damping: float) -> None:
    """No state: at least as many earlier tokens of the document as `carry` reaches back to are read again.

    A document is read in spans as long as the reach, each after the tokens of the span before it. A model that
    carries a state of constant size reads a span window by window (equal to reading it at once, and the work does not
    grow with the square of the reach); any other model reads it at once.
    """
    text, context = reader.text, reach(damping, reader.text.window)
    spans = []
    for windows in living.documents(text):
        start, end = int(text.bounds[windows[0]]), int(text.bounds[windows[-1] + 1])
        spans += [(max(start, at - context), min(at + context, end), at) for at in range(start, end, context)]
    spans.sort(key=lambda span: span[0] - span[1])
    whole = not reader.model.carries_state or reader.model.max_positions() is not None
    at_once = reader.streams_at_once(2 * context if whole else text.window, stateful=not whole)
    for start in range(0, len(spans), at_once):
        begins, ends, scored = (list(part) for part in zip(*spans[start : start + at_once], strict=True))
        if whole:
            reader.read_spans(begins, ends, scored)
        else:
            _read_piecewise(reader, begins, ends, scored)


def _read_piecewise(reader: Reader, begins: list[int], ends: list[int], scored: list[int]) -> None:
    """Read spans, longest first, window by window from fresh states that are not damped."""
    window, state = reader.text.window, reader.model.initial_state(len(begins))
    for offset in range(0, ends[0] - begins[0], window):
        active = sum(end - begin > offset for begin, end in zip(begins, ends, strict=True))
        state = {name: tensor[:active] for name, tensor in state.items()}
        starts = [begin + offset for begin in begins[:active]]
        stops = [min(at + window, end) for at, end in zip(starts, ends[:active], strict=True)]
        state = reader.read_spans(starts, stops, scored[:active], state) or {}


def reach(damping: float, window: int) -> int:
    """Tokens after which a carried state has less than 1 % of its weight, in whole windows and at most 16 of them."""
    windows = 16 if damping >= 1.0 else math.ceil(math.log(REACH) / (window * math.log(damping)))
    return window * min(windows, 16)


def _none(model: LanguageModel, text: HeldOut, damping: float) -> str | None:
    return None


def _needs_state(model: LanguageModel, text: HeldOut, damping: float) -> str | None:
    if not model.carries_state:
        return "this model has no state of constant size that could be carried"
    if model.max_positions() is not None:
        return f"this model's state holds at most {model.max_positions()} positions"
    return None


def _needs_two_documents(model: LanguageModel, text: HeldOut, damping: float) -> str | None:
    if len(text.documents) < 2:
        return "the held-out text is one document, there is no other to take a state from"
    return _needs_state(model, text, damping)


def _needs_positions(model: LanguageModel, text: HeldOut, damping: float) -> str | None:
    limit, needed = model.max_positions(), 2 * reach(damping, text.window)
    if limit is not None and limit < needed:
        return f"this model reads at most {limit} positions, this arm needs {needed}"
    return None


ARMS: dict[str, Arm] = {
    "static": Arm("what does the plain model know, the state reset at every window?", read_static, _none),
    "carry": Arm("does the synaptic state of the document so far help?", read_carry, _needs_state),
    "carry_corpus": Arm("does the state adapt to the stream of documents?", read_carry_corpus, _needs_state),
    "shuffled": Arm("is it content, or just some state?", read_shuffled, _needs_two_documents),
    "longer_context": Arm("or is it only context length?", read_longer_context, _needs_positions),
    "observe": Arm(
        "the protocol of the two-stage reference: a coactivation state that is watched and never read",
        read_static,
        _none,
        watched=True,
    ),
}
