"""Concepts with labels: planted by a generator, or found in the text of transcripts and plays by written rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdh.corpora.tokens import TokenCorpus
from bdh.metrics.concept_rules import Span, spans_of_text
from bdh.metrics.passages import Passages

MOST_COUNTED = 5_000_000
RAREST, COMMONEST = 0.002, 0.6


@dataclass(frozen=True)
class Labelled:
    """M labelled tokens and C concepts.

    concepts: M,C bool. document, window: M, where each token stands. frequency: M, class of how often the token occurs
    in the training split (classes that double). of_documents: C, whether the concept is constant within documents.
    """

    names: list[str]
    concepts: np.ndarray
    document: np.ndarray
    window: np.ndarray
    frequency: np.ndarray
    of_documents: list[bool]


def label(corpus: TokenCorpus, split: str, passages: Passages) -> Labelled | None:
    """Concepts of the inputs of `passages`, None when fewer than two of them cover 0.2 to 60 % of the tokens."""
    size = int(corpus.tokens(split).size)
    spans = planted_spans(corpus, split) or text_spans(corpus, split, np.unique(passages.row))
    masks = {name: np.zeros(size, dtype=bool) for name in sorted({span.concept for span in spans})}
    for span in spans:
        masks[span.concept][span.start : span.end] = True
    labels = {name: mask[passages.places] for name, mask in masks.items()} | _sectors(corpus, passages)
    labels = {name: mask for name, mask in labels.items() if RAREST <= mask.mean() <= COMMONEST}
    if len(labels) < 2:
        return None
    concepts = np.stack(list(labels.values()), axis=1)
    return Labelled(
        names=list(labels),
        concepts=concepts,
        document=passages.row,
        window=np.repeat(np.arange(passages.text.windows), passages.text.lengths),
        frequency=frequency_classes(corpus)[passages.text.inputs],
        of_documents=[_constant(mask, passages.row) for mask in concepts.T],
    )


def frequency_classes(corpus: TokenCorpus) -> np.ndarray:
    """floor(log2(1 + occurrences)) of every token id among the first five million of the training split (V)."""
    tokens = np.asarray(corpus.tokens("train")[:MOST_COUNTED])
    return np.floor(np.log2(1 + np.bincount(tokens, minlength=corpus.vocab_size))).astype(np.int64)


def planted_spans(corpus: TokenCorpus, split: str) -> list[Span]:
    """The concepts that a generator planted, in places of the split's own array; none for any other corpus."""
    table = corpus.labels
    if table is None:
        return []
    table = table[table["split"] == split]
    columns = zip(table["concept"], table["token_start"], table["token_end"], strict=True)
    return [Span(str(concept), int(start), int(end)) for concept, start, end in columns]


def text_spans(corpus: TokenCorpus, split: str, rows: np.ndarray) -> list[Span]:
    """Concepts that the rules of `bdh.metrics.concept_rules` find in some documents, in places of the split's array.

    A token belongs to a span when it shares a byte with it. A document whose text is not what its tokens' bytes are
    (no valid UTF-8) has none.
    """
    tokens, found = corpus.tokens(split), []
    for row in rows.tolist():
        first, end = (int(corpus.documents.loc[row, name]) for name in ("token_start", "token_end"))
        ids = np.asarray(tokens[first:end]).astype(np.int64)
        text = corpus.decode(ids.tolist())
        ends = np.cumsum(np.asarray(corpus.token_bytes)[ids])
        offset = _byte_offsets(text)
        if not ids.size or offset[-1] != ends[-1]:
            continue
        for span in spans_of_text(text):
            start, stop = int(offset[span.start]), int(offset[span.end])
            left = int(np.searchsorted(ends, start, side="right"))
            right = int(np.searchsorted(ends, stop, side="left")) + 1
            found.append(Span(span.concept, first + left, first + min(right, ids.size)))
    return found


def _byte_offsets(text: str) -> np.ndarray:
    """UTF-8 bytes before every character, and of the whole text."""
    sizes = [len(character.encode("utf-8", errors="replace")) for character in text]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _sectors(corpus: TokenCorpus, passages: Passages) -> dict[str, np.ndarray]:
    """One concept per sector of the companies, constant within a document."""
    sectors = corpus.documents.loc[passages.row, "sector"].astype("string").fillna("").to_numpy(dtype=object)
    return {f"sector: {name}": sectors == name for name in sorted(set(sectors.tolist()) - {""})}


def _constant(mask: np.ndarray, row: np.ndarray) -> bool:
    number = np.unique(row, return_inverse=True)[1]
    share = np.bincount(number, weights=mask) / np.bincount(number)
    return bool(np.isin(share, (0.0, 1.0)).all())
