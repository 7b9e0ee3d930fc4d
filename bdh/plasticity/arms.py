"""The arms of stage B: frozen weights, the same held-out tokens, and one rule each for what a window may know.

A new arm is one function of (reader, damping) and one line of `ARMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bdh.models.base import LanguageModel, State, damp_state
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
    for windows, state in carried(reader, damping):
        reader.on_state(windows, state)


def carried(reader: Reader, damping: float) -> Iterator[tuple[list[int], State]]:
    """Read every document as one stream, several documents side by side.

    Yields after each step the windows that were read and the states of their streams, not yet damped.
    """
    for group in _document_groups(reader):
        state = reader.model.initial_state(len(group))
        for step in range(len(group[0])):
            active = [windows[step] for windows in group if step < len(windows)]
            state = {name: tensor[: len(active)] for name, tensor in state.items()}
            if step:
                state = damp_state(state, damping**reader.text.window)
            state = reader.read(active, state) or {}
            yield active, state


def read_carry_corpus(reader: Reader, damping: float) -> None:
    """One stream over all documents in order; the state survives the end of a document."""
    state = reader.model.initial_state(1)
    lengths = reader.text.lengths
    for window in range(reader.text.windows):
        if window:
            state = damp_state(state, damping ** int(lengths[window - 1]))
        state = reader.read([window], state) or {}


def read_shuffled(reader: Reader, damping: float) -> None:
    """Like `carry`, but every window after a document's first gets the state that another document carried there.

    The donor of a document is its neighbour among documents of similar length; where the donor is shorter its last
    state is given. The donor's own stream is read first and never sees the other document.
    """
    for group in _document_groups(reader, at_least=2):
        own = reader.model.initial_state(len(group))
        for step in range(len(group[0])):
            active = [windows[step] for windows in group if step < len(windows)]
            before = {name: tensor.clone() for name, tensor in own.items()}
            after = reader.read(active, {name: tensor[: len(active)] for name, tensor in own.items()}) or {}
            if step:
                given = {
                    name: torch.roll(tensor, 1, 0)[: len(active)] if name != "position" else tensor[: len(active)]
                    for name, tensor in before.items()
                }
                reader.read(active, given)
            damped = damp_state(after, damping**reader.text.window)
            for name, tensor in own.items():
                own[name] = torch.cat([damped[name], tensor[len(active) :]])


def read_longer_context(reader: Reader, damping: float) -> None:
    """No state: at least as many earlier tokens of the document as `carry` reaches back to are read again.

    A document is read in spans as long as the reach, each after the tokens of the span before it.
    """
    context = reach(damping, reader.text.window)
    step = context // reader.text.window
    spans = [
        (windows[first], windows[min(first + step, len(windows)) - 1])
        for windows in _documents(reader.text)
        for first in range(0, len(windows), step)
    ]
    at_once = reader.streams_at_once(2 * context)
    for start in range(0, len(spans), at_once):
        chosen = spans[start : start + at_once]
        reader.read([first for first, _ in chosen], context=context, through=[last for _, last in chosen])


def reach(damping: float, window: int) -> int:
    """Tokens after which a carried state has less than 1 % of its weight, in whole windows and at most 16 of them."""
    windows = 16 if damping >= 1.0 else math.ceil(math.log(REACH) / (window * math.log(damping)))
    return window * min(windows, 16)


def _documents(text: HeldOut) -> list[list[int]]:
    """Windows of every document, longest document first."""
    starts = np.flatnonzero(np.diff(text.document, prepend=-1))
    ends = np.append(starts[1:], text.windows)
    documents = [list(range(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return sorted(documents, key=len, reverse=True)


def _document_groups(reader: Reader, at_least: int = 1) -> list[list[list[int]]]:
    """Documents as lists of their windows, longest first, in groups that are read side by side."""
    documents = _documents(reader.text)
    size = max(at_least, reader.streams_at_once(reader.text.window))
    groups = [documents[start : start + size] for start in range(0, len(documents), size)]
    if len(groups) > 1 and len(groups[-1]) < at_least:
        groups[-2:] = [groups[-2] + groups[-1]]
    return groups


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
