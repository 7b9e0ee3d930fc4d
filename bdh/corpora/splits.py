"""Which documents train, validate and test; no document stands in two splits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from bdh.corpora.documents import Entry
from bdh.corpora.readers import PlainReader
from bdh.corpora.tokens import SPLITS
from bdh.params import SplitByDate, SplitByPosition
from bdh.project.errors import CorpusError

Splits = dict[str, list[Entry]]


def by_date(entries: list[Entry], split: SplitByDate, corpus: str) -> Splits:
    """Documents up to `train_until` train, later ones test, the last of the former validate; all by date.

    Documents of one day keep the order of the source. Raises CorpusError for a document without a date or
    an empty split.
    """
    undated = next((entry for entry in entries if entry.date is None), None)
    if undated is not None:
        raise CorpusError(f"corpus {corpus}: document {undated.id} has no date; a split by date needs one for each")
    ordered = sorted(entries, key=lambda entry: (entry.date, entry.source))
    until = split.train_until.isoformat()
    early = [entry for entry in ordered if str(entry.date) <= until]
    late = ordered[len(early) :]
    validation = min(max(1, round(split.validation_fraction * len(early))), len(early))
    cut = len(early) - validation
    splits = {"train": early[:cut], "validation": early[cut:], "test": late}
    span = f"documents run from {ordered[0].date} to {ordered[-1].date}, train_until is {until}"
    return _none_empty(splits, corpus, f"{span}; move train_until or take more documents")


def by_position(entries: list[Entry], split: SplitByPosition, corpus: str, reader: object) -> Splits:
    """Train, validation and test in the order of the source, by shares of its bytes.

    Several documents stay whole: each goes to where its middle lies. A single text is cut between two characters.
    Raises CorpusError when a split would be empty or the shares leave nothing to train on.
    """
    test = 1.0 - split.test_fraction
    validation = test - split.validation_fraction
    if validation <= 0.0:
        shares = f"validation_fraction {split.validation_fraction} and test_fraction {split.test_fraction}"
        raise CorpusError(f"corpus {corpus}: {shares} leave nothing to train on; their sum must be below 1")
    if len(entries) == 1 and isinstance(reader, PlainReader):
        return _cut_single(entries[0], reader.split_points([validation, test]), corpus)
    total = sum(entry.utf8_bytes for entry in entries)
    middles = [after - entry.utf8_bytes / 2 for after, entry in zip(_running(entries), entries, strict=True)]
    where: Callable[[float], str] = lambda at: SPLITS[(at >= validation * total) + (at >= test * total)]  # noqa: E731
    splits: Splits = {name: [] for name in SPLITS}
    for middle, entry in zip(middles, entries, strict=True):
        splits[where(middle)].append(entry)
    return _none_empty(splits, corpus, f"{len(entries)} documents are too few for these fractions; raise them")


def _running(entries: list[Entry]) -> list[int]:
    return list(itertools.accumulate(entry.utf8_bytes for entry in entries))


def _cut_single(entry: Entry, points: list[int], corpus: str) -> Splits:
    bounds = [entry.start, *(min(max(point, entry.start), entry.end) for point in points), entry.end]
    splits = {
        name: [dataclasses.replace(entry, start=start, end=end, id=name)] if end > start else []
        for name, (start, end) in zip(SPLITS, itertools.pairwise(bounds), strict=True)
    }
    return _none_empty(splits, corpus, f"a text of {entry.utf8_bytes} bytes is too short for these fractions")


def _none_empty(splits: Splits, corpus: str, remedy: str) -> Splits:
    for name, entries in splits.items():
        if not entries:
            raise CorpusError(f"corpus {corpus}: split {name} is empty: {remedy}")
    return splits
