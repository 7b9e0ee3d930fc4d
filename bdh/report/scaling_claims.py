"""The claim about several GPUs, judged from the committed results of `benchmarks.scaling`."""

from __future__ import annotations

import re

from bdh.report.finding import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, Finding
from bdh.report.inputs import Inputs

CLAIMED = 8
NEAR = 0.9
RULE = f"Weak scaling of bdh on {CLAIMED} GPUs keeps at least {100 * NEAR:.0f} % of {CLAIMED} times one GPU."


def near_linear(inputs: Inputs) -> Finding:
    """Efficiency of weak scaling at 8 GPUs; the curve as far as it was measured is told in any case."""
    curves: dict[str, dict[int, float]] = {}
    for row in inputs.scaling.values.get("rows", []):
        named = re.fullmatch(r"ddp_(\d+)(?:_(.+))?", row["work"])
        if named:
            curves.setdefault(named[2] or "bdh", {})[int(named[1])] = float(row["ratio"])
    lines = [f"{variant}: {_told(curve)}" for variant, curve in curves.items()]
    reached = curves.get("bdh", {}).get(CLAIMED)
    if not lines:
        return Finding(NOT_MEASURED, rule=RULE)
    if reached is None:
        return Finding(NOT_MEASURED, "\n".join([f"not measured at {CLAIMED}", *lines]), rule=RULE)
    return Finding(SUPPORTED if reached >= NEAR else NOT_SUPPORTED, "\n".join(lines), rule=RULE)


def _told(curve: dict[int, float]) -> str:
    return ", ".join(f"{size} GPUs {efficiency:.1%}" for size, efficiency in sorted(curve.items()))
