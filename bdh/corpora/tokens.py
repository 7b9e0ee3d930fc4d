"""A tokenized corpus as it lies in data/tokens/<corpus>, read through memory maps.

Windows of tokens for training, validation and stage B; every choice is a function of the arguments alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bdh.corpora.tokenizer import Tokenizer, load, smallest_dtype
from bdh.project.errors import CorpusError
from bdh.project.files import read_json

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")
STATS = "stats.json"
DOCUMENTS = "documents.parquet"
LABELS = "labels.parquet"
SPEAKERS = "speakers.parquet"


class TokenCorpus:
    """Token arrays of three splits, the table of documents, the tokenizer and the statistics of one corpus."""

    def __init__(self, folder: Path, stats: dict[str, Any]) -> None:
        """Use `open`."""
        self.folder = folder
        self.stats = stats

    @classmethod
    def open(cls, path: Path) -> TokenCorpus:
        """The corpus in folder `path`; raises CorpusError when it is missing, RunError when it is damaged."""
        if not (path / STATS).is_file():
            raise CorpusError(f"{path} holds no tokenized corpus; `dvc repro tokenize@{path.name}` makes it")
        return cls(path, read_json(path / STATS))

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
            remedy = f"`dvc repro -f tokenize@{self.name}` makes it again"
            raise CorpusError(f"{path} has {size} bytes instead of {count * dtype.itemsize}; {remedy}")
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))

    @functools.cached_property
    def documents(self) -> pd.DataFrame:
        """One row per document in the order of the splits' arrays; token spans index the split's own array.

        Columns id, split, symbol, company, sector, date, year, quarter, speaker_turns, token_start, token_end
        (without the end of text), utf8_bytes, floor_nats (known entropy of a generated document, else missing).
        """
        import pandas as pd

        table = pd.read_parquet(self.folder / DOCUMENTS)
        whole = {"year": "Int64", "quarter": "Int64", "speaker_turns": "Int64", "floor_nats": "Float64"}
        return cast("pd.DataFrame", table.astype(whole))

    @functools.cached_property
    def labels(self) -> pd.DataFrame | None:
        """Planted concepts of a generated corpus, None for any other.

        Columns document (row of `documents`), split, concept, token_start, token_end (in the split's own array).
        """
        import pandas as pd

        path = self.folder / LABELS
        return pd.read_parquet(path) if path.exists() else None

    @functools.cached_property
    def speakers(self) -> pd.DataFrame | None:
        """Who speaks where, None for a corpus that does not tell.

        Columns document (row of `documents`), split, role (operator, executive, analyst, unlisted; the class of the
        speaker in generated plays), token_start, token_end (in the split's own array).
        """
        import pandas as pd

        path = self.folder / SPEAKERS
        return pd.read_parquet(path) if path.exists() else None

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


ALL_ROWS = slice(None)


def random_windows(
    tokens: np.ndarray, batch_size: int, window: int, seed: int, step: int, rows: slice = ALL_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (B, window), int64, at uniformly random places of `tokens`; of the batch only `rows`.

    A pure function of its arguments: a resumed training needs no state of a sampler. Raises CorpusError when
    the split is not longer than the window.
    """
    places = _places(tokens, window)
    bits = np.random.Philox(key=seed, counter=step << 64).random_raw(batch_size)
    starts = ((bits >> 11) * 2.0**-53 * places).astype(np.int64)
    return _windows(tokens, starts[rows], window)


def fixed_windows(tokens: np.ndarray, count: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (C, window), int64, evenly spaced over `tokens` and never overlapping.

    C is `count`, or fewer when the split has no room for so many. Raises CorpusError when the split is not
    longer than the window.
    """
    places = _places(tokens, window)
    count = min(count, (len(tokens) - 1) // window)
    starts = np.arange(count, dtype=np.int64) * (places - 1) // max(count - 1, 1)
    return _windows(tokens, starts, window)


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


def _places(tokens: np.ndarray, window: int) -> int:
    places = len(tokens) - window
    if places < 1:
        raise CorpusError(
            f"a window of {window} tokens needs a split of at least {window + 1}, this one has {len(tokens)}; "
            "make the window shorter or the split larger"
        )
    return places


def _windows(tokens: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = np.asarray(tokens[starts[:, None] + np.arange(window + 1)], dtype=np.int64)
    return np.ascontiguousarray(pieces[:, :-1]), np.ascontiguousarray(pieces[:, 1:])
