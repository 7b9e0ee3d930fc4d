"""The surprisal of every scored token in every arm and at every damping of the sweep; nothing is judged here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bdh.errors import RunError
from bdh.models.base import State
from bdh.plasticity import living
from bdh.plasticity.activity import Activity
from bdh.plasticity.arms import ARMS
from bdh.plasticity.held_out import HeldOut
from bdh.plasticity.reader import Reader
from bdh.plasticity.results import Scores
from bdh.plasticity.state import StateWatch, half_life

if TYPE_CHECKING:
    from bdh.plasticity.evaluation import Rules

MakeReader = Callable[[Activity | None], Reader]
MEMORY = ("half_life_measured_tokens", "norm", "effective_rank")


@dataclass
class Readings:
    """arms: surprisal (P) by arm. reasons: why the others were not run. carry, watches: surprisal of arm `carry`, and
    what its states were like, by damping."""

    watches: dict[float, StateWatch]
    arms: dict[str, np.ndarray] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    carry: dict[float, np.ndarray] = field(default_factory=dict)

    def sweep(self, scores: Scores, text: HeldOut, rules: Rules) -> dict[str, Any]:
        """`rows`: arm `carry` at every damping, ascending: its scores, the half-life that damping alone gives and the
        one measured, norm and effective rank of the state. Without a state: no rows and the `reason`."""
        if not self.carry:
            return {"rows": [], "reason": self.reasons["carry"]}
        rows = []
        for damping in sorted(self.carry):
            memory = self.watches[damping].report(text.document, text.window, damping)
            row = {
                "damping": damping,
                "half_life_tokens": half_life(damping),
                **{name: memory[name] for name in MEMORY},
            }
            rows.append(row | scores.total(self.carry[damping]))
        return {"rows": rows}


def read_everything(text: HeldOut, rules: Rules, activity: Activity, make_reader: MakeReader) -> Readings:
    """Read the text once per arm; arms `carry` (at every damping) and `shuffled` share one pass.

    `make_reader` makes a reader, watched by `activity` when that is passed to it. Raises RunError when a surprisal is
    not finite.
    """
    ends = set(np.flatnonzero(np.diff(text.document, append=-1)).tolist())
    found = Readings({damping: StateWatch(ends) for damping in rules.dampings})
    for name, arm in ARMS.items():
        reader = make_reader(activity if arm.watched else None)
        obstacle = arm.obstacle(reader.model, text, rules.damping)
        if obstacle is not None:
            found.reasons[name] = obstacle
        elif name not in living.ARMS:
            arm.read(reader, rules.damping)
            found.arms[name] = _finite(name, reader.nats)
    if "carry" not in found.reasons:
        _read_living(found, make_reader(None), rules)
    return found


def _read_living(found: Readings, reader: Reader, rules: Rules) -> None:
    def watch(damping: float, windows: list[int], state: State) -> None:
        found.watches[damping].take(windows, state)

    donors = "shuffled" not in found.reasons
    read = living.read(reader, rules.dampings, donors=donors, on_state=watch)
    found.carry = {damping: _finite(f"carry at damping {damping}", nats) for damping, nats in read.carry.items()}
    found.arms["carry"] = found.carry[rules.damping]
    if read.shuffled is not None:
        found.arms["shuffled"] = _finite("shuffled", read.shuffled)


def _finite(name: str, nats: np.ndarray) -> np.ndarray:
    if not np.isfinite(nats).all():
        raise RunError(f"arm {name}: the model gives a surprisal that is not finite; train it again")
    return nats
