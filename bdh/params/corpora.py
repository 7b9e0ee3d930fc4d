"""One corpus: where its text comes from, how it is cut into documents and splits, how it is tokenized."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bdh.params.section import Day, Section
from bdh.params.training import OverridesByScale

NO_FILES = {"unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined"}
"""What Python calls encodings of text and no file is written in."""


def _known_encoding(name: str) -> str:
    try:
        found = codecs.lookup(name)
        text = found._is_text_encoding and found.name.replace("_", "-") not in NO_FILES
    except (LookupError, ValueError):
        text = False
    if not text:
        raise ValueError("no encoding of text has that name; for example utf-8, utf-16, latin-1, cp1252, shift_jis")
    return name


Encoding = Annotated[str, AfterValidator(_known_encoding)]
Names = Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class Written(Section):
    """How the files of a source are written; stage fetch makes plain UTF-8 of them and provenance.json says so.

    encoding: of text, jsonl and csv. newlines: `lf` makes one LF of every CRLF and CR, `keep` leaves them.
    """

    encoding: Encoding = "utf-8"
    newlines: Literal["keep", "lf"] = "keep"


class GeneratedSource(Section):
    """A corpus that this project makes from a seed."""

    kind: Literal["generated"]
    generator: Literal["plays", "calls"]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    documents: Annotated[int, Field(ge=1, le=10**7)]


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


class DownloadSource(Written):
    """Files from a mirror (BDH_CORPORA_MIRROR) or from pinned https addresses."""

    kind: Literal["download"]
    files: Annotated[list[SourceFile], Field(min_length=1)]


class LocalSource(Written):
    """The user's own: a file, a folder or a pattern like `my/*.jsonl.zst`, or a list of these; fsspec URLs too."""

    kind: Literal["local"]
    path: Names
    licence: str


class HubSource(Written):
    """Files of a data set of the Hugging Face hub at one revision: those whose path fits one of the patterns `files`.

    A `revision` that is no commit (a branch, a tag) is looked up; provenance.json records the commit.
    """

    kind: Literal["hub"]
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    revision: Annotated[str, Field(min_length=1)]
    files: Names
    licence: str


Share = Annotated[float, Field(ge=1e-9, lt=1.0)]


class SplitByPosition(Section):
    """Train, validation, test in the order of the file; whole documents when there are several."""

    by: Literal["position"]
    validation_fraction: Share
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
    validation_fraction: Annotated[float, Field(ge=1e-9, le=0.5)]
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    block_bytes: Annotated[int, Field(ge=16, le=2**40)]


class SplitByHash(Section):
    """Every document goes where the sha256 of its text says: it stays there when others are added or removed."""

    by: Literal["hash"]
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]

    @model_validator(mode="after")
    def _leaves_some(self) -> SplitByHash:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on; their sum is below 1")
        return self


def _has_no_dates(split: Any) -> Any:
    if isinstance(split, dict) and split.get("by") == "date":
        raise ValueError("by: date needs dates, and format: text has none; by: position, blocks or hash")
    return split


TextSplit = Annotated[
    Annotated[SplitByPosition | SplitByBlocks | SplitByHash, Field(discriminator="by")], BeforeValidator(_has_no_dates)
]
Split = Annotated[SplitByPosition | SplitByBlocks | SplitByDate | SplitByHash, Field(discriminator="by")]


class SeparatorPattern(Section):
    """A regular expression for what stands between documents."""

    pattern: Annotated[str, Field(min_length=1)]


class PlainText(Section):
    """UTF-8 text; `separator` (literal, or a pattern) stands between documents, None means one document."""

    format: Literal["text"]
    separator: Annotated[str, Field(min_length=1)] | SeparatorPattern | None
    split: TextSplit


class Columns(Section):
    """Which column of a table (or key of a JSON object) holds what; None where there is none."""

    text: str
    turns: str | None = None
    symbol: str | None = None
    company: str | None = None
    sector: str | None = None
    date: str | None = None
    year: str | None = None
    quarter: str | None = None


def _file_beside(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError("the name of a file beside the documents is expected, like sectors.csv, without a folder")
    return name


class TableText(Section):
    """Tables with one document per row: parquet, csv with a header, or jsonl (one JSON object per line)."""

    format: Literal["parquet", "jsonl", "csv"]
    columns: Columns
    sectors: Annotated[str, AfterValidator(_file_beside)] | None = None
    keep_sectors: list[str] = Field(default_factory=list)
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
    vocab_size: Annotated[int, Field(ge=257, le=2**20)]


Source = Annotated[GeneratedSource | DownloadSource | LocalSource | HubSource, Field(discriminator="kind")]
Text = Annotated[PlainText | TableText, Field(discriminator="format")]
Tokenizer = Annotated[ByteTokenizer | CharacterTokenizer | Gpt2Tokenizer | BpeTokenizer, Field(discriminator="name")]


class Corpus(Section):
    """One corpus: source, documents and splits, tokenizer, overrides by scale."""

    source: Source
    text: Text
    tokenizer: Tokenizer
    scales: OverridesByScale
