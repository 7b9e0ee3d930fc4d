"""documents.parquet, speakers.parquet and labels.parquet of a tokenized corpus; equal input gives equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.documents import Entry
from bdh.corpora.planted import LABEL_COLUMNS, Span, read_floors, read_spans, token_spans
from bdh.corpora.speakers import spans_of
from bdh.corpora.splits import Splits
from bdh.corpora.tokenizer import Tokenizer
from bdh.corpora.tokens import DOCUMENTS, LABELS, SPEAKERS

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
SPEAKER_COLUMNS = {"role" if name == "concept" else name: kind for name, kind in LABEL_COLUMNS.items()}
CLASS = "class_"
ROWS_AT_ONCE = 1 << 16


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
    documents = list(zip(rows, places, strict=True))
    speakers = [_speakers(entry, (labels or {}).get(entry.source, [])) for _, entry in rows]
    if any(speakers):
        _write_spans(out / SPEAKERS, out, documents, speakers, tokenizer, SPEAKER_COLUMNS)
    if labels is not None:
        planted = [labels.get(entry.source, []) for _, entry in rows]
        _write_spans(out / LABELS, out, documents, planted, tokenizer, LABEL_COLUMNS)


def _speakers(entry: Entry, planted: list[Span]) -> list[Span]:
    """Who speaks where: the turns that the source tells, else the planted classes of speakers."""
    if entry.turns:
        return spans_of(entry.turns)
    return [Span(p.concept.removeprefix(CLASS), p.start, p.end) for p in planted if p.concept.startswith(CLASS)]


def _write_spans(
    path: Path,
    out: Path,
    documents: list[tuple[tuple[str, Entry], tuple[int, int]]],
    spans: list[list[Span]],
    tokenizer: Tokenizer,
    columns: dict[str, pa.DataType],
) -> None:
    """Write byte spans of every document as token spans of its split's array, some thousand rows at a time."""
    schema = pa.schema(columns)
    found: list[tuple[int, str, str, int, int]] = []
    with pq.ParquetWriter(path, schema) as writer:
        for document, ((split, _), (start, end)) in enumerate(documents):
            if spans[document]:
                ids = np.memmap(out / f"{split}.bin", dtype=tokenizer.dtype, mode="r")[start:end]
                for name, first, last in token_spans(spans[document], ids, tokenizer):
                    found.append((document, split, name, start + first, start + last))
            if found and (len(found) >= ROWS_AT_ONCE or document == len(documents) - 1):
                arrays = zip(columns.values(), zip(*found, strict=True), strict=True)
                writer.write_table(pa.Table.from_arrays([pa.array(c, kind) for kind, c in arrays], schema=schema))
                found = []
