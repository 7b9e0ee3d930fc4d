"""The baseline that every model must beat: how often each token occurs, and nothing else."""

from __future__ import annotations

import math

import numpy as np


def unigram_bits_per_byte(
    train_counts: np.ndarray, counts: np.ndarray, token_bytes: np.ndarray, end_of_text: int | None
) -> float:
    """Bits per byte of a text under the add-one unigram of the training split.

    `counts` holds the scored targets: every token of a document but its first, no end of text.
    p(token) = (count in train + 1) / (tokens in train + V).
    """
    nats = math.log(train_counts.sum() + len(train_counts)) - np.log(train_counts + 1.0)
    scored = counts.astype(np.float64)
    if end_of_text is not None:
        scored[end_of_text] = 0.0
    return float(scored @ nats / math.log(2.0) / (scored @ token_bytes))
