"""Hatchery: a reproducible comparison of Baby Dragon Hatchling language models.

`bdh.load("bdh-sample_plays-0")` gives a trained run: model, tokenizer, settings, results (docs/using.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bdh.hub import TrainedRun

__version__ = "0.1.0"


def load(run: str, root: Path | None = None, device: str = "auto") -> TrainedRun:
    """The run with the key (or in the folder) `run` of the project at `root`, by default the one around this folder.

    `device` is auto, cpu or cuda. Raises RunError for a run that is not there, damaged or diverged.
    """
    from bdh.hub import load as load_trained

    return load_trained(run, root, device)
