"""What a generator knows of its documents: the entropy of its choices and the concepts it planted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.tokenizer import Tokenizer

FLOORS = "floors.parquet"
LABELS = "labels.parquet"
LABEL_COLUMNS = {
    "document": pa.int32(),
    "split": pa.string(),
    "concept": pa.string(),
    "token_start": pa.int64(),
    "token_end": pa.int64(),
}


@dataclass(frozen=True)
class Span:
    """A planted concept: UTF-8 byte span of one document's text."""

    concept: str
    start: int
    end: int


@dataclass(frozen=True)
class Planted:
    """What is known of one generated document: the log-probability of its choices (negated, nats) and its concepts."""

    floor_nats: float
    spans: list[Span] = field(default_factory=list)


def write_planted(folder: Path, documents: Iterable[Planted]) -> None:
    """Write the floors and labels of all documents, in the order of the source, into `folder`."""
    documents = list(documents)
    floors = pa.table({"nats": pa.array([document.floor_nats for document in documents], pa.float64())})
    rows = [(source, span) for source, document in enumerate(documents) for span in document.spans]
    labels = pa.table(
        {
            "source": pa.array([source for source, _ in rows], pa.int32()),
            "concept": pa.array([span.concept for _, span in rows], pa.string()),
            "start": pa.array([span.start for _, span in rows], pa.int64()),
            "end": pa.array([span.end for _, span in rows], pa.int64()),
        }
    )
    pq.write_table(floors, folder / FLOORS)
    pq.write_table(labels, folder / LABELS)


def read_floors(folder: Path) -> list[float] | None:
    """Nats of every document in the order of the source; None for a corpus that was not generated."""
    path = folder / FLOORS
    return pq.read_table(path)["nats"].to_pylist() if path.exists() else None


def read_spans(folder: Path) -> dict[int, list[Span]] | None:
    """Planted concepts by document in the order of the source; None for a corpus that was not generated."""
    path = folder / LABELS
    if not path.exists():
        return None
    spans: dict[int, list[Span]] = {}
    for row in pq.read_table(path).to_pylist():
        spans.setdefault(row["source"], []).append(Span(row["concept"], row["start"], row["end"]))
    return spans


def token_spans(spans: Iterable[Span], ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[tuple[str, int, int]]:
    """Yield (concept, first token, last token + 1) for byte spans of the document whose tokens are `ids`.

    A token belongs to a span when it shares a byte with it.
    """
    ends = np.cumsum(tokenizer.token_bytes[ids])
    for span in spans:
        first = int(np.searchsorted(ends, span.start, side="right"))
        last = int(np.searchsorted(ends, span.end, side="left"))
        yield span.concept, first, min(last + 1, len(ids))
