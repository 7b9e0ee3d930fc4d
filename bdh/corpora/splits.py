"""Which documents train, validate and test; no document stands in two splits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from bdh.corpora.documents import Document
from bdh.corpora.readers import PlainReader
from bdh.corpora.tokens import SPLITS
from bdh.params import SplitByBlocks, SplitByDate, SplitByHash, SplitByPosition
from bdh.project.errors import CorpusError

Splits = dict[str, list[Document]]


def by_date(documents: list[Document], split: SplitByDate, corpus: str) -> Splits:
    """Documents up to `train_until` train, later ones test, the last of the former validate; all by date.

    Documents of one day keep the order of the source. Raises CorpusError for a document without a date or
    an empty split.
    """
    undated = next((document for document in documents if document.date is None), None)
    if undated is not None:
        raise CorpusError(f"corpus {corpus}: document {undated.id} has no date; a split by date needs one for each")
    ordered = sorted(documents, key=lambda document: (document.date, document.source))
    until = split.train_until.isoformat()
    early = [document for document in ordered if str(document.date) <= until]
    late = ordered[len(early) :]
    validation = min(max(1, round(split.validation_fraction * len(early))), len(early))
    cut = len(early) - validation
    splits = {"train": early[:cut], "validation": early[cut:], "test": late}
    span = f"documents run from {ordered[0].date} to {ordered[-1].date}, train_until is {until}"
    return _none_empty(splits, corpus, f"{span}; move train_until or take more documents")


def by_position(documents: list[Document], split: SplitByPosition, corpus: str, reader: object) -> Splits:
    """Train, validation and test in the order of the source, by shares of its bytes.

    Several documents stay whole: each goes to where its middle lies. A single text is cut between two characters.
    Raises CorpusError when a split would be empty or the shares leave nothing to train on.
    """
    test = 1.0 - split.test_fraction
    validation = test - split.validation_fraction
    if validation <= 0.0:
        shares = f"validation_fraction {split.validation_fraction} and test_fraction {split.test_fraction}"
        raise CorpusError(f"corpus {corpus}: {shares} leave nothing to train on; their sum must be below 1")
    if len(documents) == 1 and isinstance(reader, PlainReader):
        return _cut_single(documents[0], reader.split_points([validation, test]), corpus)
    splits: Splits = {name: [] for name in SPLITS}
    total = sum(document.utf8_bytes for document in documents)
    for middle, document in _middles(documents):
        splits[SPLITS[(middle >= validation * total) + (middle >= test * total)]].append(document)
    return _none_empty(splits, corpus, _too_few(documents))


def by_blocks(documents: list[Document], split: SplitByBlocks, corpus: str, reader: object) -> Splits:
    """The end of the source tests; of the rest every k-th block validates, k = round(1 / validation_fraction).

    Several documents stay whole and are the blocks: those whose middle lies in the last `test_fraction` of the bytes
    test. A single text is cut between two characters into blocks of `block_bytes`, the last of them perhaps shorter;
    blocks of one split that follow one another are one part. Raises CorpusError when a split would be empty.
    """
    test, every = 1.0 - split.test_fraction, round(1.0 / split.validation_fraction)
    if len(documents) == 1 and isinstance(reader, PlainReader):
        return _cut_into_blocks(documents[0], reader, test, every, split.block_bytes, corpus)
    splits: Splits = {name: [] for name in SPLITS}
    total = sum(document.utf8_bytes for document in documents)
    for number, (middle, document) in enumerate(_middles(documents)):
        splits["test" if middle >= test * total else _of_block(number, every)].append(document)
    return _none_empty(splits, corpus, _too_few(documents))


def by_hash(documents: list[Document], split: SplitByHash, corpus: str) -> Splits:
    """Every document goes where its digest, read as a number from 0 to 1, falls: test first, then validation.

    What is added or removed later moves no other document. Raises CorpusError for a single document or an empty split.
    """
    if len(documents) == 1:
        raise CorpusError(
            f"corpus {corpus}: by: hash deals out whole documents and there is one; by: blocks cuts a single text"
        )
    splits: Splits = {name: [] for name in SPLITS}
    for document in documents:
        place = int.from_bytes(document.digest[:8]) / 2.0**64
        held_out = place < split.test_fraction + split.validation_fraction
        splits["test" if place < split.test_fraction else "validation" if held_out else "train"].append(document)
    return _none_empty(splits, corpus, _too_few(documents))


def _middles(documents: list[Document]) -> Iterator[tuple[float, Document]]:
    """Every document with the place of its middle among the bytes of all of them."""
    ends = itertools.accumulate(document.utf8_bytes for document in documents)
    for end, document in zip(ends, documents, strict=True):
        yield end - document.utf8_bytes / 2, document


def _cut_single(document: Document, points: list[int], corpus: str) -> Splits:
    bounds = [document.start, *(min(max(point, document.start), document.end) for point in points), document.end]
    splits = {
        name: [_part(document, start, end, name)] if end > start else []
        for name, (start, end) in zip(SPLITS, itertools.pairwise(bounds), strict=True)
    }
    return _none_empty(splits, corpus, _too_short(document))


def _cut_into_blocks(
    document: Document, reader: PlainReader, test: float, every: int, size: int, corpus: str
) -> Splits:
    (end,) = reader.character_starts([document.start + int(document.utf8_bytes * test)])
    cuts = [document.start, *reader.character_starts(range(document.start + size, end, size)), end]
    splits: Splits = {"train": [], "validation": [], "test": [_part(document, end, document.end, "test")]}
    blocks = enumerate(itertools.pairwise(cuts))
    for name, run in itertools.groupby(blocks, lambda numbered: _of_block(numbered[0], every)):
        (_, (first, last)), *more = run
        last = more[-1][1][1] if more else last
        splits[name].append(_part(document, first, last, f"{name}-{len(splits[name]):05d}"))
    return _none_empty(splits, corpus, _too_short(document))


def _of_block(number: int, every: int) -> str:
    return "validation" if number % every == every // 2 else "train"


def _part(document: Document, start: int, end: int, name: str) -> Document:
    return dataclasses.replace(document, start=start, end=end, id=name, part=True)


def _too_few(documents: list[Document]) -> str:
    return f"{len(documents)} documents are too few for these fractions; raise them"


def _too_short(document: Document) -> str:
    return f"a text of {document.utf8_bytes} bytes is too short for these fractions"


def _none_empty(splits: Splits, corpus: str, remedy: str) -> Splits:
    for name, documents in splits.items():
        if not documents:
            raise CorpusError(f"corpus {corpus}: split {name} is empty: {remedy}")
    return splits
