"""One corpus: where its text comes from, how it is cut into documents and splits, how it is tokenized."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bdh.params.section import Count, Day, Section
from bdh.params.training import OverridesByScale


class GeneratedSource(Section):
    """A corpus that this project makes from a seed."""

    kind: Literal["generated"]
    generator: Literal["plays", "calls"]
    seed: int
    documents: Count


class SourceFile(Section):
    """One file of a download: its path in a mirror, its https address and the sha256 of every accepted version.

    `url` is None where no public address has the file. `url_pinned` false says that the sha256 of what the address
    serves is not known beforehand: any is accepted from there, recorded and warned about; a mirror stays pinned.
    """

    path: str
    url: Annotated[str, Field(pattern=r"^https://")] | None
    url_pinned: bool = True
    sha256: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(min_length=1)]
    licence: str


class DownloadSource(Section):
    """Files from a mirror (BDH_CORPORA_MIRROR) or from pinned https addresses."""

    kind: Literal["download"]
    files: Annotated[list[SourceFile], Field(min_length=1)]


class LocalSource(Section):
    """A file of the user's own."""

    kind: Literal["local"]
    path: str
    licence: str


class SplitByPosition(Section):
    """Train, validation, test in the order of the file; whole documents when there are several."""

    by: Literal["position"]
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]


class SplitByDate(Section):
    """Documents up to a day train, later ones test; the last of the training documents validate."""

    by: Literal["date"]
    train_until: Day
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]


class SplitByBlocks(Section):
    """The last bytes test; of the rest every k-th block validates, k = round(1 / validation_fraction).

    A block has `block_bytes` bytes of a single text; where there are several documents, each of them is one.
    """

    by: Literal["blocks"]
    validation_fraction: Annotated[float, Field(gt=0.0, le=0.5)]
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    block_bytes: Annotated[int, Field(ge=16)]


TextSplit = Annotated[SplitByPosition | SplitByBlocks, Field(discriminator="by")]
Split = Annotated[SplitByPosition | SplitByBlocks | SplitByDate, Field(discriminator="by")]


class SeparatorPattern(Section):
    """A regular expression for what stands between documents."""

    pattern: Annotated[str, Field(min_length=1)]


class PlainText(Section):
    """UTF-8 text; `separator` (literal, or a pattern) stands between documents, None means one document."""

    format: Literal["text"]
    separator: Annotated[str, Field(min_length=1)] | SeparatorPattern | None
    split: TextSplit


class Columns(Section):
    """Which column of a parquet file holds what; None where the file has none."""

    text: str
    turns: str | None
    symbol: str | None
    company: str | None
    sector: str | None
    date: str | None
    year: str | None
    quarter: str | None


class ParquetText(Section):
    """A parquet file with one document per row."""

    format: Literal["parquet"]
    columns: Columns
    sectors: str | None
    keep_sectors: list[str]
    split: Split


class ByteTokenizer(Section):
    """UTF-8 bytes, vocabulary 256."""

    name: Literal["bytes"]


class CharacterTokenizer(Section):
    """Unicode characters of the training split."""

    name: Literal["characters"]


class Gpt2Tokenizer(Section):
    """The GPT-2 byte-level BPE, vocabulary 50,257, from two pinned files."""

    name: Literal["gpt2"]
    vocab: SourceFile
    merges: SourceFile


class BpeTokenizer(Section):
    """Byte-level BPE trained on the training split."""

    name: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=257)]


Source = Annotated[GeneratedSource | DownloadSource | LocalSource, Field(discriminator="kind")]
Text = Annotated[PlainText | ParquetText, Field(discriminator="format")]
Tokenizer = Annotated[ByteTokenizer | CharacterTokenizer | Gpt2Tokenizer | BpeTokenizer, Field(discriminator="name")]


class Corpus(Section):
    """One corpus: source, documents and splits, tokenizer, overrides by scale."""

    source: Source
    text: Text
    tokenizer: Tokenizer
    scales: OverridesByScale
