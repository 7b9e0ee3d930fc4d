"""Write a sample corpus from its seed, in the shape of the corpus it stands for."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.planted import write_planted
from bdh.corpora.sample.call_words import COMPANIES
from bdh.corpora.sample.calls import write_call, years_of
from bdh.corpora.sample.plays import write_play
from bdh.params import GeneratedSource

PLAYS = "plays.txt"
CALLS = "calls.parquet"
SECTORS = "sectors.csv"
SEPARATOR = "\n\n* * *\n\n"
CALL_COLUMNS = {
    "symbol": pa.string(),
    "company_name": pa.string(),
    "company_id": pa.float64(),
    "year": pa.int64(),
    "quarter": pa.int64(),
    "date": pa.string(),
    "content": pa.string(),
    "structured_content": pa.list_(pa.struct({"speaker": pa.string(), "text": pa.string()})),
}


def generate(source: GeneratedSource, folder: Path) -> str:
    """Write the files of the corpus into `folder` and return the name of the one with the documents.

    A document depends on the seed and its number alone (a call also on its year), so equal settings give equal
    bytes. Beside the text stand its known entropy and the planted concepts, see `bdh.corpora.planted`.
    """
    seeds = [f"{source.generator}/{source.seed}/{number}" for number in range(source.documents)]
    if source.generator == "plays":
        plays = [write_play(seed) for seed in seeds]
        (folder / PLAYS).write_text(SEPARATOR.join(text for text, _ in plays), encoding="utf-8")
        write_planted(folder, [planted for _, planted in plays])
        return PLAYS
    calls = [write_call(seed, year) for seed, year in zip(seeds, years_of(source.documents), strict=True)]
    table = pa.Table.from_pylist([row for row, _ in calls], schema=pa.schema(CALL_COLUMNS))
    pq.write_table(table, folder / CALLS)
    write_planted(folder, [planted for _, planted in calls])
    with (folder / SECTORS).open("w", encoding="utf-8", newline="") as file:
        rows = [(company.symbol, company.name, company.sector) for company in COMPANIES]
        csv.writer(file, lineterminator="\n").writerows([("symbol", "company", "gics_sector"), *rows])
    return CALLS
