"""Windows of held-out text from all documents of a split, evenly spread, for metrics that compare documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdh.corpora.tokens import TokenCorpus
from bdh.hebbian.held_out import HeldOut

MOST_TOKENS = 6144


@dataclass(frozen=True)
class Passages:
    """Text to read, and where its inputs stand.

    text: P inputs. places: P, in the split's own array. row: P, row of the corpus' table of documents.
    """

    text: HeldOut
    places: np.ndarray
    row: np.ndarray


def spread(corpus: TokenCorpus, split: str, window: int, max_tokens: int = MOST_TOKENS) -> Passages | None:
    """As many whole windows as fit into `max_tokens`, evenly spaced over all documents; None when there is none."""
    table = corpus.documents
    table = table[table["split"] == split]
    spans = [
        (int(row), int(start), at)
        for row, start, end in zip(table.index, table["token_start"], table["token_end"], strict=True)
        for at in range(int(start), int(end) - window, window)
    ]
    count = min(len(spans), max_tokens // window)
    if count < 1:
        return None
    chosen = [spans[at] for at in np.unique(np.linspace(0, len(spans) - 1, count).round().astype(int))]
    tokens = np.asarray(corpus.tokens(split))
    rows, starts, begins = (np.array(column, dtype=np.int64) for column in zip(*chosen, strict=True))
    places = (begins[:, None] + np.arange(window)).reshape(-1)
    read, document = np.unique(rows, return_inverse=True)
    targets = tokens[places + 1].astype(np.int64)
    text = HeldOut(
        inputs=tokens[places].astype(np.int64),
        targets=targets,
        bounds=window * np.arange(len(chosen) + 1),
        document=document,
        position=places - np.repeat(starts, window) + 1,
        token_bytes=np.asarray(corpus.token_bytes)[targets].astype(np.int64),
        documents=table.loc[read, ["id", "symbol", "sector", "year"]].reset_index(drop=True),
        window=window,
    )
    return Passages(text, places, np.repeat(rows, window))
