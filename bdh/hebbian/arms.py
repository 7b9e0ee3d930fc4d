"""The arms of stage B: frozen weights, the same held-out tokens, and one rule each for what a window may know.

A new arm is one function of (reader, damping) and one line of `ARMS`.

Documents as streams with a state of their own: several documents, and several dampings, side by side.

Documents are sorted by length, so that the streams of a group end one after the other and little is padded; what is
held at once is a group's states and one window of tokens, however long the documents are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.reader import Reader
from bdh.models.base import LanguageModel, State, damp_state

STATE_ARMS = ("carry", "shuffled")
OnState = Callable[[float, list[int], State], None]


@dataclass(frozen=True)
class Living:
    """Surprisal of every scored token (P): `carry` by damping, and `shuffled` (None unless donors were asked for)."""

    carry: dict[float, np.ndarray]
    shuffled: np.ndarray | None


def documents(text: HeldOut) -> list[list[int]]:
    """Windows of every document, longest document first."""
    starts = np.flatnonzero(np.diff(text.document, prepend=-1))
    ends = np.append(starts[1:], text.windows)
    found = [list(range(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return sorted(found, key=len, reverse=True)


def groups(reader: Reader, copies: int = 1) -> list[list[list[int]]]:
    """Documents as lists of their windows, longest first, in groups whose streams (`copies` each) are read at once.

    A group holds whole pairs of neighbours, and the last one also a document that is left over.
    """
    every = documents(reader.text)
    size = max(2, reader.streams_at_once(reader.text.window, stateful=True) // copies // 2 * 2)
    found = [every[start : start + size] for start in range(0, len(every), size)]
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [found[-2] + found[-1]]
    return found


def donors_of(documents: int) -> list[int]:
    """Whose state each of the documents of a group gets: its neighbour's; of an odd number the last three in a ring."""
    donors = [place ^ 1 for place in range(documents)]
    if documents % 2:
        donors[-3:] = [documents - 2, documents - 1, documents - 3]
    return donors


def read(reader: Reader, dampings: Sequence[float], *, donors: bool = False, on_state: OnState | None = None) -> Living:
    """Read every document at every damping, all in one pass, and show every state to `on_state` before it is damped.

    With `donors` also read, under the first damping, each window after a document's first with the state that another
    document carried there (`donors_of`; documents stand in the order of their lengths), and where that one is shorter
    its last state. A donor's stream never sees the other document, and who gives to whom does not depend on how many
    documents are read at once.
    """
    carry = {damping: np.full(reader.text.scored, np.nan) for damping in dampings}
    shuffled = np.full(reader.text.scored, np.nan) if donors else None
    for group in groups(reader, len(carry) + donors):
        _read_group(reader, group, carry, shuffled, on_state)
    return Living(carry, shuffled)


def _read_group(
    reader: Reader,
    group: list[list[int]],
    carry: dict[float, np.ndarray],
    shuffled: np.ndarray | None,
    on_state: OnState | None,
) -> None:
    K, G, window = len(carry), len(group), reader.text.window
    donors = donors_of(G)
    factors_K = [damping**window for damping in carry]
    own = {name: tensor.unflatten(0, (K, G)) for name, tensor in reader.model.initial_state(K * G).items()}
    for step in range(len(group[0])):
        active = [windows[step] for windows in group if step < len(windows)]
        A = len(active)
        streams = {name: tensor[:, :A].flatten(0, 1) for name, tensor in own.items()}
        into = [nats for nats in carry.values() for _ in active]
        if shuffled is not None and step:
            streams = {
                name: torch.cat([tensor, _given(name, own[name][0], donors[:A])]) for name, tensor in streams.items()
            }
            into += [shuffled] * A
        after = reader.read(active * (len(into) // A), streams, into) or {}
        after = {name: tensor[: K * A].unflatten(0, (K, A)) for name, tensor in after.items()}
        for k, damping in enumerate(carry):
            reached = {name: tensor[k] for name, tensor in after.items()}
            if on_state is not None:
                on_state(damping, active, reached)
            for name, tensor in damp_state(reached, factors_K[k]).items():
                own[name][k, :A] = tensor
        if shuffled is not None and not step:
            for row in active:
                span = slice(reader.text.bounds[row], reader.text.bounds[row + 1])
                shuffled[span] = next(iter(carry.values()))[span]


def _given(name: str, own_G: Tensor, donors: list[int]) -> Tensor:
    """What the first documents of a group get to read with: their own position, all else of their donors."""
    return own_G[: len(donors)] if name == "position" else own_G[donors]


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
    reader.nats[:] = read(reader, [damping]).carry[damping]


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
    reader.nats[:] = read(reader, [damping], donors=True).shuffled


def read_longer_context(reader: Reader, damping: float) -> None:
    """No state: at least as many earlier tokens of the document as `carry` reaches back to are read again.

    A document is read in spans as long as the reach, each after the tokens of the span before it. A model that
    carries a state of constant size reads a span window by window (equal to reading it at once, and the work does not
    grow with the square of the reach); any other model reads it at once.
    """
    text, context = reader.text, reach(damping, reader.text.window)
    spans = []
    for windows in documents(text):
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
