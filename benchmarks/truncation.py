"""Training steps of the trained reservoirs: runs between cuts of the gradient read in turn, or side by side.

    python -m benchmarks.truncation                                            # on a CPU
    python -m benchmarks.truncation --sizes 32x512,1024x64 --compile --out benchmarks/results/h200_truncation.json

Forward and backward pass, both forms of `bdh.reservoir.truncation` on the same batch, taking turns; medians over
rounds, the ratio the median of those within rounds. Gradients of both are compared first. `--compile` compiles both
where the section of the variant in params.yaml does (`recurrent_trained`).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from bdh.models import recurrent
from bdh.models.base import LanguageModel, build
from bdh.params import load
from bdh.project.files import write_json
from bdh.reservoir.truncation import one_by_one, side_by_side
from benchmarks.machine import describe, recorded, seconds_each

FORMS = {"one_by_one": one_by_one, "side_by_side": side_by_side}
VARIANTS = ("recurrent_trained", "neuro_trained")
COMPILED = ("recurrent_trained",)
VOCABULARY = 256


class Step:
    """Forward and backward pass of one model through one form."""

    def __init__(self, variant: str, form: str, compiled: bool, device: str) -> None:
        self.form = FORMS[form]
        params = load()
        architecture, own = params.architecture_of(variant), params.preset_of(variant)
        self.model: LanguageModel = build(architecture, vocab_size=VOCABULARY, seed=0, **own).to(device).train()
        self.called: Any = torch.compile(self.model) if compiled else self.model

    def __call__(self, batch: torch.Tensor) -> None:
        recurrent.truncated_scan = self.form
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        self.called(batch[0], batch[1]).loss.backward()

    def gradients(self, batch: torch.Tensor) -> torch.Tensor:
        """All of them in one row."""
        self(batch)
        return torch.cat([p.grad.flatten().double() for p in self.model.parameters() if p.grad is not None])


def compare(variant: str, streams: int, window: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    batch = torch.randint(VOCABULARY, (2, streams, window), device=options.device)
    compiled = options.compile and variant in COMPILED
    steps = {form: Step(variant, form, compiled, options.device) for form in FORMS}
    found = {form: step.gradients(batch) for form, step in steps.items()}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(options.rounds):
        for form, step in steps.items():
            times[form] += seconds_each(lambda s=step: s(batch), repeats=1, warmup=1, device=options.device)
    ratios = [old / new for old, new in zip(times["one_by_one"], times["side_by_side"], strict=True)]
    difference = (found["one_by_one"] - found["side_by_side"]).norm() / found["one_by_one"].norm()
    return {
        "variant": variant,
        "streams": streams,
        "window": window,
        "compiled": compiled,
        **{f"{form}_ms": round(1e3 * statistics.median(taken), 2) for form, taken in times.items()},
        "ratio": round(statistics.median(ratios), 2),
        "tokens_per_s": round(streams * window / statistics.median(times["side_by_side"])),
        "gradient_difference": float(difference),
        "rounds": options.rounds,
    }


def main() -> None:
    """Measure, print a table, write the JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--sizes", default="8x128,32x64,8x512", help="streams x window, comma-separated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for variant in options.variants:
        for size in options.sizes.split(","):
            streams, window = map(int, size.split("x"))
            rows.append(compare(variant, streams, window, options))
            line = "{variant:18} {streams:>5} x {window:<4} {one_by_one_ms:>9} -> {side_by_side_ms:>8} ms  x{ratio}"
            print((line + "  gradients {gradient_difference:.0e} apart").format(**rows[-1]), flush=True)
    if options.out:
        write_json(options.out, {"machine": describe(options.device), "settings": recorded(options), "rows": rows})


if __name__ == "__main__":
    main()
