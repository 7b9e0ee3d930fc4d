"""What a generator knows of its documents: the entropy of its choices and the concepts it planted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.documents import read_table
from bdh.corpora.tokenizer import Tokenizer

FLOORS = "floors.parquet"
FLOOR_COLUMNS = {"nats": pa.float64()}
LABELS = "labels.parquet"
LABEL_COLUMNS = {"source": pa.int32(), "concept": pa.string(), "start": pa.int64(), "end": pa.int64()}


@dataclass(frozen=True)
class PlantedSpan:
    """A planted concept: UTF-8 byte span of one document's text."""

    concept: str
    start: int
    end: int


@dataclass(frozen=True)
class Planted:
    """What is known of one generated document: the log-probability of its choices (negated, nats) and its concepts."""

    floor_nats: float
    spans: list[PlantedSpan] = field(default_factory=list)


def write_planted(folder: Path, documents: Iterable[Planted]) -> None:
    """Write the floors and labels of all documents, in the order of the source, into `folder`."""
    floors, spans = [], []
    for source, document in enumerate(documents):
        floors.append({"nats": document.floor_nats})
        spans += [{"source": source, "concept": s.concept, "start": s.start, "end": s.end} for s in document.spans]
    pq.write_table(pa.Table.from_pylist(floors, schema=pa.schema(FLOOR_COLUMNS)), folder / FLOORS)
    pq.write_table(pa.Table.from_pylist(spans, schema=pa.schema(LABEL_COLUMNS)), folder / LABELS)


def read_floors(folder: Path) -> list[float] | None:
    """Nats of every document in the order of the source; None for a corpus that was not generated."""
    table = _read(folder / FLOORS, FLOOR_COLUMNS)
    return None if table is None else table["nats"].to_pylist()


def read_spans(folder: Path) -> dict[int, list[PlantedSpan]] | None:
    """Planted concepts by document in the order of the source; None for a corpus that was not generated."""
    table = _read(folder / LABELS, LABEL_COLUMNS)
    if table is None:
        return None
    spans: dict[int, list[PlantedSpan]] = {}
    for row in table.to_pylist():
        spans.setdefault(row["source"], []).append(PlantedSpan(row["concept"], row["start"], row["end"]))
    return spans


def _read(path: Path, columns: dict[str, pa.DataType]) -> pa.Table | None:
    again = f"`dvc repro -f fetch@{path.parent.name}` makes it again"
    return read_table(path, columns, again) if path.exists() else None


def token_spans(spans: Iterable[PlantedSpan], ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[tuple[str, int, int]]:
    """Yield (concept, first token, last token + 1) for byte spans of the document whose tokens are `ids`.

    A token belongs to a span when it shares a byte with it.
    """
    ends = np.cumsum(tokenizer.token_bytes[ids])
    for span in spans:
        first = int(np.searchsorted(ends, span.start, side="right"))
        last = int(np.searchsorted(ends, span.end, side="left"))
        yield span.concept, first, min(last + 1, len(ids))
