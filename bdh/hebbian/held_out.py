"""Held-out text as stage B reads it: whole documents in order, cut into windows, every token but the first scored.

The context rule, the same for every arm: the tokens d_0 .. d_{n-1} of a document (its end-of-text token left out) are
cut into windows of `window` inputs, starting at d_0; the last window may be shorter. Reading input d_i scores the
prediction of d_{i+1}. What an arm may know beside the inputs of the window itself is what makes it that arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bdh.corpora.statistics import unigram_bits_per_byte
from bdh.corpora.tokens import TokenCorpus, document_windows
from bdh.project.errors import RunError


@dataclass(frozen=True)
class HeldOut:
    """P scored tokens of several documents, in W windows.

    inputs, targets: P, int64. bounds: W+1, window w reads inputs[bounds[w]:bounds[w+1]]. document: W, row of
    `documents` that each window belongs to. position: P, place of each target in its document (1 is the second
    token). token_bytes: P, UTF-8 bytes of each target. documents: one row per document read, columns id, symbol,
    sector, year (null where the corpus has none). window: tokens per window. roles: roles of speakers that occur, in
    alphabetical order; role: P, place in `roles` of who says each target, -1 for nobody (None without any roles).
    """

    inputs: np.ndarray
    targets: np.ndarray
    bounds: np.ndarray
    document: np.ndarray
    position: np.ndarray
    token_bytes: np.ndarray
    documents: pd.DataFrame
    window: int
    roles: tuple[str, ...] = ()
    role: np.ndarray | None = None

    @property
    def scored(self) -> int:
        """Number of scored tokens P."""
        return int(self.targets.size)

    @property
    def windows(self) -> int:
        """Number of windows W."""
        return int(self.document.size)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each window (W)."""
        return np.diff(self.bounds)

    @property
    def token_document(self) -> np.ndarray:
        """Row of `documents` that each scored token belongs to (P)."""
        return np.repeat(self.document, self.lengths)


def cut(corpus: TokenCorpus, split: str, window: int, max_tokens: int) -> HeldOut:
    """The first `max_tokens` tokens of a split, document by document; raises RunError when nothing can be scored."""
    pieces = [
        (int(row), inputs.reshape(-1).astype(np.int64), targets.reshape(-1).astype(np.int64))
        for row, inputs, targets, _ in document_windows(corpus, split, window, max_tokens)
    ]
    if not pieces:
        raise RunError(f"{corpus.name}: the {split} split holds no document of two tokens; nothing can be evaluated")
    rows = np.array([row for row, _, _ in pieces])
    lengths = np.array([inputs.size for _, inputs, _ in pieces])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    read, document = np.unique(rows, return_inverse=True)
    targets_P = np.concatenate([targets for _, _, targets in pieces])
    starts = bounds[:-1][np.searchsorted(document, document, side="left")]
    position_P = 1 + np.arange(targets_P.size) - np.repeat(starts, lengths)
    first_W = corpus.documents["token_start"].to_numpy()[rows]
    roles, role_P = _roles(corpus, split, np.repeat(first_W, lengths) + position_P)
    return HeldOut(
        inputs=np.concatenate([inputs for _, inputs, _ in pieces]),
        targets=targets_P,
        bounds=bounds,
        document=document,
        position=position_P,
        token_bytes=np.asarray(corpus.token_bytes)[targets_P].astype(np.int64),
        documents=corpus.documents.iloc[read][["id", "symbol", "sector", "year"]].reset_index(drop=True),
        window=window,
        roles=roles,
        role=role_P,
    )


def unigram_of(corpus: TokenCorpus, text: HeldOut) -> float:
    """Bits per byte of the scored tokens of `text` under the add-one unigram of the training split."""
    train, scored = (
        np.bincount(tokens, minlength=corpus.vocab_size) for tokens in (corpus.tokens("train"), text.targets)
    )
    return unigram_bits_per_byte(train, scored, np.asarray(corpus.token_bytes), corpus.end_of_text)


def _roles(corpus: TokenCorpus, split: str, place_P: np.ndarray) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Roles that the split's speakers have, and the role of the token at each place of the split's array."""
    if corpus.speakers is None:
        return (), None
    spans = corpus.speakers.query("split == @split").sort_values("token_start")
    if spans.empty:
        return (), None
    roles, code_S = np.unique(spans["role"].to_numpy(dtype=str), return_inverse=True)
    span_P = np.searchsorted(spans["token_start"].to_numpy(), place_P, side="right") - 1
    inside_P = (span_P >= 0) & (place_P < spans["token_end"].to_numpy()[span_P])
    return tuple(roles.tolist()), np.where(inside_P, code_S[span_P], -1)
