"""documents.parquet and labels.parquet of a tokenized corpus; equal input gives equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.planted import LABEL_COLUMNS, read_floors, read_spans, token_spans
from bdh.corpora.splits import Splits
from bdh.corpora.tokenizer import Tokenizer
from bdh.corpora.tokens import DOCUMENTS, LABELS

Spans = dict[str, list[tuple[int, int]]]
KNOWN = {
    "id": pa.string(),
    "symbol": pa.string(),
    "company": pa.string(),
    "sector": pa.string(),
    "date": pa.string(),
    "year": pa.int32(),
    "quarter": pa.int32(),
    "speaker_turns": pa.int32(),
    "utf8_bytes": pa.int64(),
}


def write_tables(raw: Path, out: Path, parts: Splits, spans: Spans, tokenizer: Tokenizer) -> None:
    """Write the table of documents, and of planted concepts where `raw` has them, into `out`."""
    rows = [(split, entry) for split, entries in parts.items() for entry in entries]
    places = [place for split in parts for place in spans[split]]
    floors = read_floors(raw)
    known = {name: pa.array([getattr(entry, name) for _, entry in rows], kind) for name, kind in KNOWN.items()}
    columns = {
        "id": known.pop("id"),
        "split": pa.array([split for split, _ in rows], pa.string()),
        **known,
        "token_start": pa.array([start for start, _ in places], pa.int64()),
        "token_end": pa.array([end for _, end in places], pa.int64()),
        "floor_nats": pa.array([None if floors is None else floors[entry.source] for _, entry in rows], pa.float64()),
    }
    pq.write_table(pa.table(columns), out / DOCUMENTS)
    labels = read_spans(raw)
    if labels is None:
        return
    found = []
    for document, ((split, entry), (start, end)) in enumerate(zip(rows, places, strict=True)):
        ids = np.memmap(out / f"{split}.bin", dtype=tokenizer.dtype, mode="r")[start:end]
        for concept, first, last in token_spans(labels.get(entry.source, []), ids, tokenizer):
            found.append((document, split, concept, start + first, start + last))
    columns = dict(zip(LABEL_COLUMNS, zip(*found, strict=True), strict=True))
    arrays = {name: pa.array(columns[name], kind) for name, kind in LABEL_COLUMNS.items()}
    pq.write_table(pa.table(arrays), out / LABELS)
