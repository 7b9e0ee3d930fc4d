"""Documents as streams with a state of their own: several documents, and several dampings, side by side.

Documents are sorted by length, so that the streams of a group end one after the other and little is padded; what is
held at once is a group's states and one window of tokens, however long the documents are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bdh.models.base import State, damp_state
from bdh.plasticity.held_out import HeldOut
from bdh.plasticity.reader import Reader

ARMS = ("carry", "shuffled")
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
