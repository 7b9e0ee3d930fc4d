"""Windows of tokens for training, validation and stage B; every choice is a function of the arguments alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bdh.corpora.tokens import TokenCorpus
from bdh.errors import CorpusError

ALL_ROWS = slice(None)


def random_windows(
    tokens: np.ndarray, batch_size: int, window: int, seed: int, step: int, rows: slice = ALL_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (B, window), int64, at uniformly random places of `tokens`; of the batch only `rows`.

    A pure function of its arguments: a resumed training needs no state of a sampler. Raises CorpusError when
    the split is not longer than the window.
    """
    places = _places(tokens, window)
    bits = np.random.Philox(key=seed, counter=step << 64).random_raw(batch_size)
    starts = ((bits >> 11) * 2.0**-53 * places).astype(np.int64)
    return _windows(tokens, starts[rows], window)


def fixed_windows(tokens: np.ndarray, count: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (C, window), int64, evenly spaced over `tokens` and never overlapping.

    C is `count`, or fewer when the split has no room for so many. Raises CorpusError when the split is not
    longer than the window.
    """
    places = _places(tokens, window)
    count = min(count, (len(tokens) - 1) // window)
    starts = np.arange(count, dtype=np.int64) * (places - 1) // max(count - 1, 1)
    return _windows(tokens, starts, window)


def document_windows(
    corpus: TokenCorpus, split: str, window: int, max_tokens: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, bool]]:
    """Walk the documents of `split` in order, window by window, for evaluation with a state.

    Yields (row in `corpus.documents`, inputs (1, w), targets (1, w), first of its document) with w <= window.
    Every token of a document but its first is a target exactly once; the end of text is never one. The walk ends
    after `max_tokens` targets; the document that reaches the limit is cut there.
    """
    tokens = corpus.tokens(split)
    rows = corpus.documents.query("split == @split")
    left = max_tokens
    for row, start, end in zip(rows.index, rows["token_start"], rows["token_end"], strict=True):
        first = int(start)
        last = min(int(end) - 1, first + left)
        for place in range(first, last, window):
            stop = min(place + window, last)
            inputs = np.asarray(tokens[place:stop], dtype=np.int64)[None]
            targets = np.asarray(tokens[place + 1 : stop + 1], dtype=np.int64)[None]
            yield int(row), inputs, targets, place == first
        left -= max(last - first, 0)
        if left <= 0:
            return


def _places(tokens: np.ndarray, window: int) -> int:
    places = len(tokens) - window
    if places < 1:
        raise CorpusError(
            f"a window of {window} tokens needs a split of at least {window + 1}, this one has {len(tokens)}; "
            "make the window shorter or the split larger"
        )
    return places


def _windows(tokens: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = np.asarray(tokens[starts[:, None] + np.arange(window + 1)], dtype=np.int64)
    return np.ascontiguousarray(pieces[:, :-1]), np.ascontiguousarray(pieces[:, 1:])
