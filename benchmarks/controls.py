"""Controls of the frontier metrics: what holds no structure of the kind asked about, and what holds a planted one.

A control is a function of a seed that returns a row of its metric. Those of random numbers are small; those of real
networks (`benchmarks.control_nets`) read what `python -m benchmarks.calibration --prepare` measured once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NULL, PLANTED = "null", "planted"
DISTINCT = ("above its null", "below its null")
TWINS = 20
REPETITIONS = {NULL: 400, PLANTED: 200}
"""Of a null, enough to tell .05 from .10; a power of .8 is known to .03 from fewer."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Control:
    """One control.

    metric, kind (null or planted) and name tell it from others. make: the row of its metric of a seed. most: how many
    seeds where fewer than usual can be drawn. nets: whether it needs what `--prepare` makes. below: what is planted
    lies below chance.
    """

    metric: str
    kind: str
    name: str
    make: Callable[[int], Row]
    most: int | None = None
    nets: bool = False
    below: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from others."""
        return self.metric, self.kind, self.name

    @property
    def repetitions(self) -> int:
        """How many seeds are asked for."""
        usual = REPETITIONS[self.kind]
        return usual if self.most is None else min(usual, self.most)

    def outcome(self, seed: int) -> str:
        """The verdict of a seed."""
        return str(self.make(seed)["verdict"])

    def hit(self, verdict: str) -> bool:
        """Whether that verdict tells the control from its null; a planted one must lie on its side of it."""
        return verdict == DISTINCT[self.below] if self.kind == PLANTED else verdict in DISTINCT


def all_controls() -> dict[tuple[str, str, str], Control]:
    """Every control by its key."""
    from benchmarks import control_concepts, control_graphs, control_nets, control_series, control_text

    modules = (control_graphs, control_series, control_text, control_concepts, control_nets)
    return {one.key: one for module in modules for one in module.controls()}
