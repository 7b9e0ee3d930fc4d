"""The arms of stage B: frozen weights, the same held-out tokens, and one rule each for what a window may know.

A new arm is one function from `Readings` to the surprisal of every scored token, and one entry of `ARMS`.

The arms that carry a state through a document share one pass over the text (`Readings.carried`), in which several
documents and several dampings are read side by side. Documents are sorted by length, so that the streams of a group end
one after the other and little is padded; what is held at once is a group's states and one window of tokens, however
long the documents are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bdh.hebbian.activity import Activity
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.reader import Destinations, Reader
from bdh.hebbian.state import StateWatch
from bdh.models.base import LanguageModel, damp_state

REACH = 0.01
MOST_WINDOWS = 16
HALF, QUARTER = 0.5, 0.25
Span = tuple[int, int, Destinations]
"""Begin and end of some tokens of the text, and which arrays take their surprisal, each from which place on."""


@dataclass(frozen=True)
class CarriedReadings:
    """Surprisal of every scored token (P): `carry` by damping, `shuffled` at the first one (None with one document)."""

    carry: dict[float, np.ndarray]
    shuffled: np.ndarray | None


class Readings:
    """One text and one model, for all arms.

    dampings: per token, that of the arms first, then the others of the sweep. overlaps: by which shares of their
    length windows are moved. watches: what the carried states were like, by damping (empty until `carried` is read).
    `activity` watches the activations of arm `observe`. together: a span that two moves of windows share is read once;
    not on a CPU, where every arm makes calls of its own, on which random draws inside a model depend.
    """

    def __init__(
        self,
        model: LanguageModel,
        text: HeldOut,
        dampings: Sequence[float],
        *,
        overlaps: Sequence[float] = (HALF, QUARTER),
        activity: Activity | None = None,
        device: torch.device | str = "cpu",
        bfloat16: bool = False,
    ) -> None:
        """Nothing is read yet; device and bfloat16 as for `Reader`."""
        self.model = model
        self.text = text
        self.dampings = list(dict.fromkeys(dampings))
        self.overlaps = tuple(overlaps)
        self.activity = activity
        ends = set(np.flatnonzero(np.diff(text.document, append=-1)).tolist())
        self.watches = {damping: StateWatch(ends) for damping in self.dampings}
        self.together = torch.device(device).type != "cpu"
        self._device = device
        self._bfloat16 = bfloat16

    @property
    def damping(self) -> float:
        """Damping per token of the arms."""
        return self.dampings[0]

    def reader(self, activity: Activity | None = None) -> Reader:
        """A reader of the text that has read nothing."""
        return Reader(self.model, self.text, device=self._device, bfloat16=self._bfloat16, activity=activity)

    @cached_property
    def carried(self) -> CarriedReadings:
        """Every document read at every damping with a state of its own, and with a donor's, all in one pass.

        At a window boundary the state is damped by damping**window. Under the first damping each window after a
        document's first is also read with the state that another document carried there (`donors_of`; documents stand
        in the order of their lengths), and where that one is shorter with its last state. A donor's stream never sees
        the other document, and who gives to whom does not depend on how many documents are read at once.
        """
        reader, donors = self.reader(), len(self.text.documents) > 1
        carry = {damping: np.full(self.text.scored, np.nan) for damping in self.dampings}
        shuffled = np.full(self.text.scored, np.nan) if donors else None
        for group in _groups(reader, len(carry) + donors):
            _read_group(reader, group, carry, shuffled, self.watches)
        reader.settle()
        return CarriedReadings(carry, shuffled)

    @cached_property
    def moved(self) -> dict[float, np.ndarray]:
        """Surprisal of every scored token by the share of their length that windows are moved by.

        Fresh streams of the trained length, each scored where it is new; the first window of a document scores all its
        tokens. No state is carried, so the spans of a text do not depend on each other: the longest are read first,
        many side by side. On a GPU a span of two moves is read once (`together`).
        """
        found = {share: np.full(self.text.scored, np.nan) for share in self.overlaps}
        for shares in [self.overlaps] if self.together else [(share,) for share in self.overlaps]:
            self._read_moved({share: found[share] for share in shares})
        return found

    def _read_moved(self, found: dict[float, np.ndarray]) -> None:
        reader, text = self.reader(), self.text
        spans: dict[tuple[int, int], list[tuple[np.ndarray, int]]] = {}
        for windows in _windows_by_document(text):
            start, end = int(text.bounds[windows[0]]), int(text.bounds[windows[-1] + 1])
            for share, nats in found.items():
                for begin, stop, fresh in _moved_spans(start, end, text.window, max(1, int(share * text.window))):
                    spans.setdefault((begin, stop), []).append((nats, fresh))
        _read_sorted(reader, [(*span, into) for span, into in spans.items()], text.window)


def _windows_by_document(text: HeldOut) -> list[list[int]]:
    """Windows of every document, longest document first."""
    starts = np.flatnonzero(np.diff(text.document, prepend=-1))
    ends = np.append(starts[1:], text.windows)
    found = [list(range(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return sorted(found, key=len, reverse=True)


def _groups(reader: Reader, copies: int) -> list[list[list[int]]]:
    """Documents as lists of their windows, longest first, in groups whose streams (`copies` each) are read at once.

    A group holds whole pairs of neighbours, and the last one also a document that is left over.
    """
    every = _windows_by_document(reader.text)
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


def _read_group(
    reader: Reader,
    group: list[list[int]],
    carry: dict[float, np.ndarray],
    shuffled: np.ndarray | None,
    watches: dict[float, StateWatch],
) -> None:
    K, G, window = len(carry), len(group), reader.text.window
    donors = donors_of(G)
    factors_K = [damping**window for damping in carry]
    own = {name: tensor.unflatten(0, (K, G)) for name, tensor in reader.model.initial_state(K * G).items()}
    for step in range(len(group[0])):
        active = [windows[step] for windows in group if step < len(windows)]
        A = len(active)
        streams = {name: tensor[:, :A].flatten(0, 1) for name, tensor in own.items()}
        into = [[nats] for nats in carry.values() for _ in active]
        if shuffled is not None and not step:
            into[:A] = [[*arrays, shuffled] for arrays in into[:A]]
        if shuffled is not None and step:
            streams = {
                name: torch.cat([tensor, _given(name, own[name][0], donors[:A])]) for name, tensor in streams.items()
            }
            into += [[shuffled]] * A
        after = reader.read(active * (len(into) // A), streams, into) or {}
        after = {name: tensor[: K * A].unflatten(0, (K, A)) for name, tensor in after.items()}
        for k, damping in enumerate(carry):
            reached = {name: tensor[k] for name, tensor in after.items()}
            watches[damping].take(active, reached)
            for name, tensor in damp_state(reached, factors_K[k]).items():
                own[name][k, :A] = tensor


def _given(name: str, own_G: Tensor, donors: list[int]) -> Tensor:
    """What the first documents of a group get to read with: their own position, all else of their donors."""
    return own_G[: len(donors)] if name == "position" else own_G[donors]


def read_static(reader: Reader) -> np.ndarray:
    """Every window is a fresh stream; windows of equal length are read side by side."""
    order = np.argsort(-reader.text.lengths, kind="stable")
    at_once = reader.streams_at_once(reader.text.window)
    for start in range(0, order.size, at_once):
        reader.read([int(window) for window in order[start : start + at_once]])
    return reader.settle()


def static(readings: Readings) -> np.ndarray:
    """Every window is a fresh stream."""
    return read_static(readings.reader())


def carry(readings: Readings) -> np.ndarray:
    """The state goes from window to window of a document, damped by damping**window at every boundary."""
    return readings.carried.carry[readings.damping]


def carry_corpus(readings: Readings) -> np.ndarray:
    """One stream over all documents in order; the state survives the end of a document."""
    reader, state = readings.reader(), readings.model.initial_state(1)
    lengths = readings.text.lengths
    for window in range(readings.text.windows):
        if window:
            state = damp_state(state, readings.damping ** int(lengths[window - 1]))
        state = reader.read([window], state) or {}
    return reader.settle()


def shuffled(readings: Readings) -> np.ndarray:
    """Like `carry`, but every window after a document's first gets the state that another document carried there."""
    found = readings.carried.shuffled
    assert found is not None
    return found


def overlap(readings: Readings) -> np.ndarray:
    """Windows moved by a half: every token after a document's first window has at least half a window before it."""
    return readings.moved[HALF]


def overlap_quarter(readings: Readings) -> np.ndarray:
    """Windows moved by a quarter: at least three quarters of a window stand before every such token."""
    return readings.moved[QUARTER]


def _read_sorted(reader: Reader, spans: list[Span], tokens: int) -> None:
    """Read spans of at most `tokens` tokens as fresh streams, the longest first, many side by side."""
    spans.sort(key=lambda span: span[0] - span[1])
    at_once = reader.streams_at_once(tokens)
    for start in range(0, len(spans), at_once):
        begins, ends, into = (list(part) for part in zip(*spans[start : start + at_once], strict=True))
        reader.read_spans(begins, ends, into)
    reader.settle()


def _moved_spans(start: int, end: int, window: int, move: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first scored token) of the windows that score each of the tokens start..end once."""
    yield start, min(start + window, end), start
    for fresh in range(start + window, end, move):
        yield fresh + move - window, min(fresh + move, end), fresh


def longer_context(readings: Readings) -> np.ndarray:
    """No state: at least as many earlier tokens of the document as `carry` reaches back to are read again.

    A document is read in spans as long as the reach, each after the tokens of the span before it. A model that
    carries a state of constant size reads a span window by window (equal to reading it at once, and the work does not
    grow with the square of the reach); any other model reads it at once.
    """
    reader, text = readings.reader(), readings.text
    context = reach(readings.damping, text.window)
    spans: list[Span] = []
    for windows in _windows_by_document(text):
        start, end = int(text.bounds[windows[0]]), int(text.bounds[windows[-1] + 1])
        for at in range(start, end, context):
            spans.append((max(start, at - context), min(at + context, end), [(reader.nats, at)]))
    if not reader.model.carries_state or reader.model.max_positions() is not None:
        _read_sorted(reader, spans, 2 * context)
        return reader.nats
    spans.sort(key=lambda span: span[0] - span[1])
    at_once = reader.streams_at_once(text.window, stateful=True)
    for start in range(0, len(spans), at_once):
        begins, ends, into = (list(part) for part in zip(*spans[start : start + at_once], strict=True))
        _read_piecewise(reader, begins, ends, into)
    return reader.settle()


def _read_piecewise(reader: Reader, begins: list[int], ends: list[int], into: list[Destinations]) -> None:
    """Read spans, longest first, window by window from fresh states that are not damped."""
    window, state = reader.text.window, reader.model.initial_state(len(begins))
    for offset in range(0, ends[0] - begins[0], window):
        active = sum(end - begin > offset for begin, end in zip(begins, ends, strict=True))
        state = {name: tensor[:active] for name, tensor in state.items()}
        starts = [begin + offset for begin in begins[:active]]
        stops = [min(at + window, end) for at, end in zip(starts, ends[:active], strict=True)]
        state = reader.read_spans(starts, stops, into[:active], state) or {}


def reach(damping: float, window: int) -> int:
    """Tokens after which a carried state has less than 1 % of its weight, in whole windows and at most 16 of them."""
    windows = MOST_WINDOWS if damping >= 1.0 else math.ceil(math.log(REACH) / (window * math.log(damping)))
    return window * min(windows, MOST_WINDOWS)


def observe(readings: Readings) -> np.ndarray:
    """As `static`, with the activations watched."""
    return read_static(readings.reader(readings.activity))


def _none(readings: Readings) -> str | None:
    return None


def _needs_state(readings: Readings) -> str | None:
    model = readings.model
    if not model.carries_state:
        return "this model has no state of constant size that could be carried"
    if model.max_positions() is not None:
        return f"this model's state holds at most {model.max_positions()} positions"
    return None


def _needs_two_documents(readings: Readings) -> str | None:
    if len(readings.text.documents) < 2:
        return "the held-out text is one document, there is no other to take a state from"
    return _needs_state(readings)


def _needs_half(readings: Readings) -> str | None:
    return _turned_off(readings, HALF)


def _needs_quarter(readings: Readings) -> str | None:
    return _turned_off(readings, QUARTER)


def _turned_off(readings: Readings, share: float) -> str | None:
    return None if share in readings.overlaps else f"hebbian.overlaps in params.yaml does not list {share}"


def _needs_positions(readings: Readings) -> str | None:
    limit, needed = readings.model.max_positions(), 2 * reach(readings.damping, readings.text.window)
    if limit is not None and limit < needed:
        return f"this model reads at most {limit} positions, this arm needs {needed}"
    return None


@dataclass(frozen=True)
class Arm:
    """One row of the results.

    question: what it answers. read: gives the surprisal of every scored token (P, nats, float64). obstacle: why the
    model cannot run it on this text, None when it can.
    """

    question: str
    read: Callable[[Readings], np.ndarray]
    obstacle: Callable[[Readings], str | None] = _none


ARMS: dict[str, Arm] = {
    "static": Arm("what does the plain model know, the state reset at every window?", static),
    "carry": Arm("does the synaptic state of the document so far help?", carry, _needs_state),
    "carry_corpus": Arm("does the state adapt to the stream of documents?", carry_corpus, _needs_state),
    "shuffled": Arm("is it content, or just some state?", shuffled, _needs_two_documents),
    "overlap": Arm("or is it only the border of the window, moved by a half?", overlap, _needs_half),
    "overlap_quarter": Arm("and moved by a quarter?", overlap_quarter, _needs_quarter),
    "longer_context": Arm("or is it only context length?", longer_context, _needs_positions),
    "observe": Arm(
        "the protocol of the two-stage reference: a coactivation state that is watched and never read", observe
    ),
}
