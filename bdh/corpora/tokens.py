"""A tokenized corpus as it lies in data/tokens/<corpus>, read through memory maps, and windows of its tokens.

Windows are for training, validation and stage B; every choice is a function of the arguments alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from bdh.corpora.documents import read_table
from bdh.corpora.tokenizer import Tokenizer, load, smallest_dtype
from bdh.project.errors import CorpusError
from bdh.project.files import read_as

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")
STATS = "stats.json"
DOCUMENTS = "documents.parquet"
SEGMENTS = "segments.parquet"
LABELS = "labels.parquet"
SPEAKERS = "speakers.parquet"
PLACE = {"token_start": pa.int64(), "token_end": pa.int64()}
DOCUMENT_COLUMNS = {
    "id": pa.string(),
    "split": pa.string(),
    "symbol": pa.string(),
    "company": pa.string(),
    "sector": pa.string(),
    "date": pa.string(),
    "year": pa.int32(),
    "quarter": pa.int32(),
    "speaker_turns": pa.int32(),
    "utf8_bytes": pa.int64(),
    **PLACE,
    "floor_nats": pa.float64(),
}
SEGMENT_COLUMNS = {"split": pa.string(), **PLACE}
LABEL_COLUMNS = {"document": pa.int32(), "split": pa.string(), "concept": pa.string(), **PLACE}
SPEAKER_COLUMNS = {"document": pa.int32(), "split": pa.string(), "role": pa.string(), **PLACE}
ALL_ROWS = slice(None)


class _TokenizerFacts(TypedDict):
    """How a tokenizer is described."""

    name: str
    vocab_size: Annotated[int, Field(ge=1, lt=2**32)]
    end_of_text: Annotated[int, Field(ge=0, lt=2**32)] | None


@with_config(ConfigDict(extra="allow"))
class _SplitFacts(TypedDict):
    """How long a split is; there are more numbers than this."""

    tokens: Annotated[int, Field(ge=0)]


class _Splits(TypedDict):
    """What is known of every split."""

    train: _SplitFacts
    validation: _SplitFacts
    test: _SplitFacts


@with_config(ConfigDict(extra="allow"))
class _Statistics(TypedDict):
    """What reading a corpus needs of stats.json; the rest of it is for the report."""

    name: str
    digest: str
    tokenizer: _TokenizerFacts
    splits: _Splits


class TokenCorpus:
    """Token arrays of three splits, the table of documents, the tokenizer and the statistics of one corpus."""

    def __init__(self, folder: Path, stats: dict[str, Any]) -> None:
        """Use `open`."""
        self.folder = folder
        self.stats = stats

    @classmethod
    def open(cls, path: Path) -> TokenCorpus:
        """The corpus in folder `path`.

        Raises CorpusError when it is missing or its statistics have another shape than stage tokenize writes, RunError
        when they are damaged.
        """
        if not (path / STATS).is_file():
            raise CorpusError(f"{path} holds no tokenized corpus; `dvc repro tokenize@{path.name}` makes it")
        again = f"`dvc repro -f tokenize@{path.name}` makes it again"
        return cls(path, dict(read_as(_Statistics, path / STATS, "stage tokenize", again, CorpusError)))

    @property
    def name(self) -> str:
        """Name of the corpus, its section in params.yaml."""
        return self.stats["name"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids, V."""
        return self.stats["tokenizer"]["vocab_size"]

    @property
    def end_of_text(self) -> int | None:
        """Id that stands after every document; None where the corpus is one document."""
        return self.stats["tokenizer"]["end_of_text"]

    @property
    def digest(self) -> str:
        """sha256 of the tokens, the documents and the tokenizer."""
        return self.stats["digest"]

    def tokens(self, split: str) -> np.ndarray:
        """Ids of a split, a read-only memory map of shape (tokens,) and the smallest unsigned type.

        Raises CorpusError for an unknown split or a file that is shorter than the statistics say.
        """
        if split not in SPLITS:
            raise CorpusError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        path = self.folder / f"{split}.bin"
        count, dtype = self.stats["splits"][split]["tokens"], smallest_dtype(self.vocab_size)
        size = path.stat().st_size if path.exists() else 0
        if size != count * dtype.itemsize:
            raise CorpusError(f"{path} has {size} bytes instead of {count * dtype.itemsize}; {self._again}")
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))

    def segments(self, split: str) -> np.ndarray:
        """Start and end of the pieces of a split's array that no window may leave, int64 of shape (S,2).

        One piece, the whole array, unless a single text was cut into blocks.
        """
        if self._segments is None:
            return np.array([[0, len(self.tokens(split))]])
        return self._segments.query("split == @split")[list(PLACE)].to_numpy()

    @functools.cached_property
    def _segments(self) -> pd.DataFrame | None:
        return self._table(SEGMENTS, SEGMENT_COLUMNS)

    @functools.cached_property
    def documents(self) -> pd.DataFrame:
        """One row per document in the order of the splits' arrays; token spans index the split's own array.

        Columns id, split, symbol, company, sector, date, year, quarter, speaker_turns, token_start, token_end
        (without the end of text), utf8_bytes, floor_nats (known entropy of a generated document, else missing).
        """
        table = self._placed(DOCUMENTS, DOCUMENT_COLUMNS)
        counts = table["split"].value_counts()
        for split, facts in self.stats["splits"].items():
            if counts.get(split, 0) != facts.get("documents", counts.get(split, 0)):
                raise CorpusError(
                    f"{self.folder / DOCUMENTS} has {counts.get(split, 0)} documents in split {split}, {STATS} says "
                    f"{facts['documents']}; {self._again}"
                )
        whole = {"year": "Int64", "quarter": "Int64", "speaker_turns": "Int64", "floor_nats": "Float64"}
        return cast("pd.DataFrame", table.astype(whole))

    @functools.cached_property
    def labels(self) -> pd.DataFrame | None:
        """Planted concepts of a generated corpus, None for any other.

        Columns document (row of `documents`), split, concept, token_start, token_end (in the split's own array).
        """
        return self._table(LABELS, LABEL_COLUMNS)

    @functools.cached_property
    def speakers(self) -> pd.DataFrame | None:
        """Who speaks where, None for a corpus that does not tell.

        Columns document (row of `documents`), split, role (operator, executive, analyst, unlisted; the class of the
        speaker in generated plays), token_start, token_end (in the split's own array).
        """
        return self._table(SPEAKERS, SPEAKER_COLUMNS)

    def _table(self, name: str, columns: dict[str, pa.DataType]) -> pd.DataFrame | None:
        return self._placed(name, columns) if (self.folder / name).exists() else None

    def _placed(self, name: str, columns: dict[str, pa.DataType]) -> pd.DataFrame:
        """A table of ours whose places lie inside the splits; CorpusError naming it where one does not."""
        table = read_table(self.folder / name, columns, self._again).to_pandas()
        lengths = table["split"].map({split: self.stats["splits"][split]["tokens"] for split in SPLITS})
        start, end = table["token_start"], table["token_end"]
        fits = (start >= 0) & (start <= end) & (end <= lengths)
        if not fits.all():
            row = int((~fits).to_numpy().argmax())
            raise CorpusError(f"{self.folder / name} is damaged (row {row} lies outside of its split); {self._again}")
        return table

    @property
    def _again(self) -> str:
        return f"`dvc repro -f tokenize@{self.name}` makes it again"

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return load(self.folder, self.stats["tokenizer"])

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end of text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.tokenizer.decode(ids)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token, int64 of shape (V,), 0 for the end of text."""
        return self.tokenizer.token_bytes


def random_windows(
    tokens: np.ndarray,
    batch_size: int,
    window: int,
    seed: int,
    step: int,
    rows: slice = ALL_ROWS,
    segments: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (B, window), int64, at uniformly random places of `tokens`; of the batch only `rows`.

    A window with its last target stays inside one of `segments` (S,2), by default the whole array. A pure function of
    its arguments: a resumed training needs no state of a sampler. Raises CorpusError when no segment is longer than
    the window.
    """
    places = _Places(tokens, window, segments)
    return _windows(tokens, places.starts(places.drawn(batch_size, seed, step)[rows]), window)


def consecutive_windows(
    tokens: np.ndarray,
    batch_size: int,
    window: int,
    seed: int,
    step: int,
    most: int,
    rows: slice = ALL_ROWS,
    segments: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs and targets (B, window), int64, of streams that read on from step to step, and which start anew (B, bool).

    A stream takes the window behind the one of the step before. After `most` windows, and where its segment has no room
    for another, it goes on elsewhere: where `random_windows` of the same seed and step has the same row. All start at
    step 1; from then on their moves are spread evenly over the steps. Pure as `random_windows`, with the same errors.
    """
    places = _Places(tokens, window, segments)
    age_B = (step - 1 + np.arange(batch_size)[rows] * most // batch_size) % most
    move_B = np.maximum(step - age_B, 1)
    at_B = end_B = np.zeros_like(move_B)
    starts_B = np.ones_like(move_B, dtype=bool)
    for earlier in range(int(move_B.min()), step + 1):
        chosen_B = places.drawn(batch_size, seed, earlier)[rows]
        starts_B = (earlier <= move_B) | (at_B + 2 * window >= end_B)
        at_B = np.where(starts_B, places.starts(chosen_B), at_B + window)
        end_B = np.where(starts_B, places.ends(chosen_B), end_B)
    return *_windows(tokens, at_B, window), starts_B


def fixed_windows(
    tokens: np.ndarray, count: int, window: int, segments: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (C, window), int64, evenly spaced over `tokens` and never overlapping.

    C is `count`, or fewer when the split has no room for so many. Segments and errors as for `random_windows`.
    """
    places = _Places(tokens, window, segments)
    count = min(count, (places.count - 1) // window + 1)
    chosen = np.arange(count, dtype=np.int64) * (places.count - 1) // max(count - 1, 1)
    return _windows(tokens, places.starts(chosen), window)


def spaced_starts(tokens: np.ndarray, count: int, length: int, segments: np.ndarray | None = None) -> np.ndarray:
    """Where `count` pieces of `length` tokens start, int64 of shape (count,), evenly spaced; they may overlap.

    Each lies inside one of `segments` (S,2), by default the whole array. Raises CorpusError when none is long enough.
    """
    places = _Places(tokens, length - 1, segments)
    return places.starts(np.linspace(0, places.count - 1, count).astype(np.int64))


def document_windows(
    corpus: TokenCorpus, split: str, window: int, max_tokens: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, bool]]:
    """Walk the documents of `split` in order, window by window, for evaluation with a state.

    Yields (row in `corpus.documents`, inputs (1, w), targets (1, w), first of its document) with w <= window.
    Every token of a document but its first is a target exactly once; the end of text is never one. The walk ends
    after `max_tokens` targets; the document that reaches the limit is cut there.
    """
    tokens = corpus.tokens(split)
    rows = corpus.documents.query("split == @split")
    left = max_tokens
    for row, start, end in zip(rows.index, rows["token_start"], rows["token_end"], strict=True):
        first = int(start)
        last = min(int(end) - 1, first + left)
        for place in range(first, last, window):
            stop = min(place + window, last)
            inputs = np.asarray(tokens[place:stop], dtype=np.int64)[None]
            targets = np.asarray(tokens[place + 1 : stop + 1], dtype=np.int64)[None]
            yield int(row), inputs, targets, place == first
        left -= max(last - first, 0)
        if left <= 0:
            return


class _Places:
    """The places where a window with its last target fits into a segment, numbered through all segments."""

    def __init__(self, tokens: np.ndarray, window: int, segments: np.ndarray | None) -> None:
        """Count the places; raises CorpusError when there is none."""
        segments_S2 = np.array([[0, len(tokens)]]) if segments is None else segments
        lengths_S = segments_S2[:, 1] - segments_S2[:, 0]
        if lengths_S.max(initial=0) <= window:
            has = f"{lengths_S.max(initial=0)}{' in one piece' if len(lengths_S) > 1 else ''}"
            raise CorpusError(
                f"a window of {window} tokens needs a split of at least {window + 1}, this one has {has}; "
                "make the window shorter or the split larger"
            )
        places_S = np.maximum(lengths_S - window, 0)
        self._ends_S = np.cumsum(places_S)
        self._segment_ends_S = segments_S2[:, 1]
        self._shift_S = segments_S2[:, 0] - (self._ends_S - places_S)
        self.count = int(self._ends_S[-1])

    def drawn(self, count: int, seed: int, step: int) -> np.ndarray:
        """Numbers of `count` random places, all equally likely, int64."""
        bits = np.random.Philox(key=seed, counter=step << 64).random_raw(count)
        return ((bits >> 11) * 2.0**-53 * self.count).astype(np.int64)

    def starts(self, places: np.ndarray) -> np.ndarray:
        """Where in the array the places with these numbers are."""
        return places + self._shift_S[self._segments_of(places)]

    def ends(self, places: np.ndarray) -> np.ndarray:
        """Where in the array the segments of these places end."""
        return self._segment_ends_S[self._segments_of(places)]

    def _segments_of(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends_S, places, side="right")


def _windows(tokens: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = np.asarray(tokens[starts[:, None] + np.arange(window + 1)], dtype=np.int64)
    return np.ascontiguousarray(pieces[:, :-1]), np.ascontiguousarray(pieces[:, 1:])
