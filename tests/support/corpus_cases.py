"""Small corpora in a temporary folder, from text to tokens, for the tests of other subjects too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.build import tokenize_corpus
from bdh.corpora.fetch import fetch_corpus
from bdh.corpora.tokens import TokenCorpus
from bdh.params import Corpus

SCALES = {scale: {"model": {}, "train": {}} for scale in ("laptop", "gpu")}
ROLES = ("text", "turns", "symbol", "company", "sector", "date", "year", "quarter")
COLUMNS = dict.fromkeys(ROLES) | {"text": "content"}
BY_POSITION = {"by": "position", "validation_fraction": 0.2, "test_fraction": 0.2}
BY_DATE = {"by": "date", "train_until": "2018-12-31", "validation_fraction": 0.3}


def text_section(path: Path, **text: Any) -> Corpus:
    """The section of a local text file; keywords override `text`, `tokenizer` overrides the bytes."""
    tokenizer = text.pop("tokenizer", {"name": "bytes"})
    whole = {"format": "text", "separator": None, "split": BY_POSITION} | text
    return section(path, whole, tokenizer)


def table_section(path: Path, columns: dict[str, str | None] | None = None, **text: Any) -> Corpus:
    """The section of a local parquet file with the columns content, date and those in `columns`."""
    tokenizer = text.pop("tokenizer", {"name": "bytes"})
    named = COLUMNS | {"date": "date"} | (columns or {})
    whole = {"format": "parquet", "columns": named, "sectors": None, "keep_sectors": [], "split": BY_DATE} | text
    return section(path, whole, tokenizer)


def section(path: Path, text: dict[str, Any], tokenizer: dict[str, Any]) -> Corpus:
    """The section of a local file."""
    source = {"kind": "local", "path": str(path), "licence": "mine"}
    return Corpus.model_validate({"source": source, "text": text, "tokenizer": tokenizer, "scales": SCALES})


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write `rows` as parquet."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def build(folder: Path, corpus: Corpus, name: str = "mine") -> TokenCorpus:
    """Fetch and tokenize `corpus` under `folder`."""
    raw = folder / "raw" / name
    fetch_corpus(name, corpus, raw, folder / "downloads")
    tokenize_corpus(name, corpus, raw, folder / "tokens" / name)
    return TokenCorpus.open(folder / "tokens" / name)
