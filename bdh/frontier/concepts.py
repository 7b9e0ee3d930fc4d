"""Passages and the concepts in them, for metrics that compare documents.

Passages are windows of held-out text from all documents of a split, evenly spread. Concepts are planted by a generator,
or found by written rules in the text: figures in transcripts, who speaks in calls and plays, stage directions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from bdh.corpora.tokens import TokenCorpus
from bdh.hebbian.held_out import HeldOut

MOST_TOKENS = 6144


@dataclass(frozen=True)
class Passages:
    """Text to read, and where its inputs stand.

    text: P inputs. places: P, in the split's own array. row: P, row of the corpus' table of documents.
    """

    text: HeldOut
    places: np.ndarray
    row: np.ndarray


def spread(corpus: TokenCorpus, split: str, window: int, max_tokens: int = MOST_TOKENS) -> Passages | None:
    """As many whole windows as fit into `max_tokens`, evenly spaced over all documents; None when there is none."""
    table = corpus.documents
    table = table[table["split"] == split]
    spans = [
        (int(row), int(start), at)
        for row, start, end in zip(table.index, table["token_start"], table["token_end"], strict=True)
        for at in range(int(start), int(end) - window, window)
    ]
    count = min(len(spans), max_tokens // window)
    if count < 1:
        return None
    chosen = [spans[at] for at in np.unique(np.linspace(0, len(spans) - 1, count).round().astype(int))]
    tokens = np.asarray(corpus.tokens(split))
    rows, starts, begins = (np.array(column, dtype=np.int64) for column in zip(*chosen, strict=True))
    places = (begins[:, None] + np.arange(window)).reshape(-1)
    read, document = np.unique(rows, return_inverse=True)
    targets = tokens[places + 1].astype(np.int64)
    text = HeldOut(
        inputs=tokens[places].astype(np.int64),
        targets=targets,
        bounds=window * np.arange(len(chosen) + 1),
        document=document,
        position=places - np.repeat(starts, window) + 1,
        token_bytes=np.asarray(corpus.token_bytes)[targets].astype(np.int64),
        documents=table.loc[read, ["id", "symbol", "sector", "year"]].reset_index(drop=True),
        window=window,
    )
    return Passages(text, places, np.repeat(rows, window))


Quote = Callable[[int], str]
"""The text around one of the labelled tokens, the token itself between « and »."""

BEFORE, AFTER = 36, 14
UNLICENSED = "not established"


def quoting(corpus: TokenCorpus, passages: Passages) -> Quote | None:
    """Contexts of the tokens of `passages` within their windows; None where the licence of the text is not established.

    At most 36 bytes before a token and 14 after it.
    """
    files = corpus.stats.get("provenance") or [{}]
    if any(str(one.get("licence", UNLICENSED)).startswith(UNLICENSED) for one in files):
        return None
    inputs, bounds = passages.text.inputs, passages.text.bounds
    ends = np.cumsum(np.asarray(corpus.token_bytes)[inputs])

    def quote(place: int) -> str:
        window = int(np.searchsorted(bounds, place, side="right")) - 1
        first, last = int(bounds[window]), int(bounds[window + 1])
        before = ends[place] - np.asarray(corpus.token_bytes)[inputs[place]]
        start = max(first, int(np.searchsorted(ends, before - BEFORE, side="right")))
        stop = min(last, int(np.searchsorted(ends, ends[place] + AFTER, side="right")))
        parts = (inputs[start:place], inputs[place : place + 1], inputs[place + 1 : stop])
        left, own, right = (corpus.decode(part.tolist()) for part in parts)
        return f"{left}«{own}»{right}"

    return quote


LONGEST_NAME = 120
MOST_COUNTED = 5_000_000
RAREST, COMMONEST = 0.002, 0.6


@dataclass(frozen=True)
class ConceptSpan:
    """A concept from place `start` to just before `end`."""

    concept: str
    start: int
    end: int


PATTERNS = {
    "currency": re.compile(
        r"[$€£¥]\s?\d[\d.,]*(?:\s(?:thousand|million|billion|trillion))?|\b(?:dollars?|euros?|cents?|pounds?)\b", re.I
    ),
    "number": re.compile(r"\d[\d.,]*\d|\d"),
    "year term": re.compile(
        r"\b(?:19|20)\d\d\b|\b(?:quarter(?:ly)?|fiscal|annual(?:ly)?|year-over-year|year-on-year|full[- ]year)\b", re.I
    ),
    "stage direction": re.compile(r"\[[^\]\n]{1,300}\]|^(?:Enter|Exit|Exeunt|Re-enter)\b[^\n]*$", re.M),
}
SPEECH = re.compile(r"(?:\A|(?<=\n\n))(?P<name>[A-Z][A-Za-z'’ ]{0,40}(?=:\n)|[A-Z][A-Z'’ ]{1,40}(?=\.\n))[:.]\n")
CLASSES = {
    "noble": re.compile(r"\b(?:king|queen|duke|duchess|prince|princess|lord|lady|earl|sir|count(?:ess)?)\b", re.I),
    "commoner": re.compile(r"\b(?:citizens?|servants?|serving\w*|messenger|murderer|gaoler|nurse|clown|peter)\b", re.I),
    "soldier": re.compile(r"\b(?:soldiers?|captain|officer|watchman|guard|lieutenant)\b", re.I),
    "clergy": re.compile(r"\b(?:friar|bishop|archbishop|cardinal|priest|abbot)\b", re.I),
}
ANONYMOUS = re.compile(r"(?:Unidentified|Unknown)\b.*$")
TITLE = re.compile(r"\s+[-–—]+\s+")
HEADINGS = {
    "executives": "executive",
    "company participants": "executive",
    "analysts": "analyst",
    "conference call participants": "analyst",
}


def spans_of_text(text: str) -> Iterator[ConceptSpan]:
    """All concepts of one document, in characters."""
    for name, pattern in PATTERNS.items():
        yield from (ConceptSpan(name, *match.span()) for match in pattern.finditer(text))
    roles = list(call_roles(text))
    yield from roles or play_speeches(text)


def call_roles(text: str) -> Iterator[ConceptSpan]:
    """Turns of a transcript by the role of the speaker: operator, executive or analyst; none for other text.

    The head of a transcript lists names below the headings of `HEADINGS`, with or without a title after a dash; a
    turn starts with a line that holds a listed name, or "Operator", alone.
    """
    roles: dict[str, str] = {}
    role, start, place, heading = None, 0, 0, None
    for line in text.splitlines(keepends=True):
        name = line.strip()
        speaker = _role_of(name, roles)
        if name.lower() in HEADINGS:
            heading = HEADINGS[name.lower()]
        elif speaker is not None and (roles or speaker == "operator"):
            if role is not None:
                yield ConceptSpan(f"role: {role}", start, place)
            heading, role, start = None, speaker, place + len(line)
        elif heading is not None and name and len(name) <= LONGEST_NAME:
            roles[TITLE.split(name)[0]] = heading
        place += len(line)
    if role is not None and roles:
        yield ConceptSpan(f"role: {role}", start, place)


def _role_of(name: str, roles: dict[str, str]) -> str | None:
    if name == "Operator":
        return "operator"
    if ANONYMOUS.match(name) and len(name) <= LONGEST_NAME:
        return "analyst"
    return roles.get(name)


def play_speeches(text: str) -> Iterator[ConceptSpan]:
    """Names of speakers and speeches by the class of the speaker.

    A name opens a paragraph and stands alone on its line, before a colon, or in capitals before a full stop.
    """
    found = list(SPEECH.finditer(text))
    for match, following in zip(found, [*found, None][1:], strict=True):
        yield ConceptSpan("speaker name", match.start("name"), match.end("name"))
        end = len(text) if following is None else following.start()
        for name, pattern in CLASSES.items():
            if pattern.search(match["name"]):
                yield ConceptSpan(f"class: {name}", match.end(), end)


@dataclass(frozen=True)
class Labelled:
    """M labelled tokens and C concepts.

    concepts: M,C bool. document, window: M, where each token stands. token: M, identity. frequency: M, class of how
    often the token occurs in the training split (classes that double). of_documents: C, whether the concept is constant
    within documents.
    """

    names: list[str]
    concepts: np.ndarray
    document: np.ndarray
    window: np.ndarray
    token: np.ndarray
    frequency: np.ndarray
    of_documents: list[bool]


def label(corpus: TokenCorpus, split: str, passages: Passages) -> Labelled | None:
    """Concepts of the inputs of `passages`, None when fewer than two of them cover 0.2 to 60 % of the tokens."""
    size = int(corpus.tokens(split).size)
    spans = planted_spans(corpus, split) or text_spans(corpus, split, np.unique(passages.row))
    masks = {name: np.zeros(size, dtype=bool) for name in sorted({span.concept for span in spans})}
    for span in spans:
        masks[span.concept][span.start : span.end] = True
    labels = {name: mask[passages.places] for name, mask in masks.items()} | _sectors(corpus, passages)
    labels = {name: mask for name, mask in labels.items() if RAREST <= mask.mean() <= COMMONEST}
    if len(labels) < 2:
        return None
    concepts = np.stack(list(labels.values()), axis=1)
    return Labelled(
        names=list(labels),
        concepts=concepts,
        document=passages.row,
        window=np.repeat(np.arange(passages.text.windows), passages.text.lengths),
        token=passages.text.inputs,
        frequency=frequency_classes(corpus)[passages.text.inputs],
        of_documents=[_constant(mask, passages.row) for mask in concepts.T],
    )


def frequency_classes(corpus: TokenCorpus) -> np.ndarray:
    """floor(log2(1 + occurrences)) of every token id among the first five million of the training split (V)."""
    tokens = np.asarray(corpus.tokens("train")[:MOST_COUNTED])
    return np.floor(np.log2(1 + np.bincount(tokens, minlength=corpus.vocab_size))).astype(np.int64)


def planted_spans(corpus: TokenCorpus, split: str) -> list[ConceptSpan]:
    """The concepts that a generator planted, in places of the split's own array; none for any other corpus."""
    table = corpus.labels
    if table is None:
        return []
    table = table[table["split"] == split]
    columns = zip(table["concept"], table["token_start"], table["token_end"], strict=True)
    return [ConceptSpan(str(concept), int(start), int(end)) for concept, start, end in columns]


def text_spans(corpus: TokenCorpus, split: str, rows: np.ndarray) -> list[ConceptSpan]:
    """Concepts that the rules of this module find in some documents, in places of the split's array.

    A token belongs to a span when it shares a byte with it. A document whose text is not what its tokens' bytes are
    (no valid UTF-8) has none.
    """
    tokens, found = corpus.tokens(split), []
    for row in rows.tolist():
        first, end = (int(corpus.documents.loc[row, name]) for name in ("token_start", "token_end"))
        ids = np.asarray(tokens[first:end]).astype(np.int64)
        text = corpus.decode(ids.tolist())
        ends = np.cumsum(np.asarray(corpus.token_bytes)[ids])
        offset = _byte_offsets(text)
        if not ids.size or offset[-1] != ends[-1]:
            continue
        for span in spans_of_text(text):
            start, stop = int(offset[span.start]), int(offset[span.end])
            left = int(np.searchsorted(ends, start, side="right"))
            right = int(np.searchsorted(ends, stop, side="left")) + 1
            found.append(ConceptSpan(span.concept, first + left, first + min(right, ids.size)))
    return found


def _byte_offsets(text: str) -> np.ndarray:
    """UTF-8 bytes before every character, and of the whole text."""
    sizes = [len(character.encode("utf-8", errors="replace")) for character in text]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _sectors(corpus: TokenCorpus, passages: Passages) -> dict[str, np.ndarray]:
    """One concept per sector of the companies, constant within a document."""
    sectors = corpus.documents.loc[passages.row, "sector"].astype("string").fillna("").to_numpy(dtype=object)
    return {f"sector: {name}": sectors == name for name in sorted(set(sectors.tolist()) - {""})}


def _constant(mask: np.ndarray, row: np.ndarray) -> bool:
    number = np.unique(row, return_inverse=True)[1]
    share = np.bincount(number, weights=mask) / np.bincount(number)
    return bool(np.isin(share, (0.0, 1.0)).all())


ALIKE = 6
TRIES = 30
SHRINKAGE = np.geomspace(0.02, 500.0, 15)


class RandomConcepts:
    """Concepts that mean nothing and are otherwise like those of a text: as many tokens, as common, in such runs.

    A concept is described by the share of every kind of token that it holds (all of it for a set of words, the same of
    every kind for who is speaking) and by where its runs lie. `alike` deals the shares to other kinds of token that
    occur as often and in as many windows, and turns the runs along the text; labels of whole documents go to others.
    All concepts are moved together, so that they overlap as they did. A set is any kinds of token that cover as much.
    """

    def __init__(self, labelled: Labelled) -> None:
        """Learn the shares; those of rare kinds are drawn to the concept's own share of the text (beta-binomial)."""
        self._labelled = labelled
        _, self._kind = np.unique(labelled.token, return_inverse=True)
        self._count = np.bincount(self._kind)
        pairs = np.unique(np.stack([self._kind, labelled.window]), axis=1)
        self._windows = np.bincount(pairs[0], minlength=self._count.size)
        self._share_CK = np.stack([self._shares(concept) for concept in labelled.concepts.T])
        by_count = np.lexsort((self._windows, self._count))
        chunks = np.array_split(by_count, max(1, by_count.size // (2 * ALIKE)))
        self._groups = [half for chunk in chunks for half in np.array_split(chunk[np.argsort(self._windows[chunk])], 2)]

    def _shares(self, concept_M: np.ndarray) -> np.ndarray:
        """Share of every kind of token that a concept holds; windows count as the independent observations."""
        coverage, total = float(concept_M.mean()), self._windows.astype(float)
        inside = total * np.bincount(self._kind, weights=concept_M) / self._count
        a, b = coverage * SHRINKAGE[:, None], (1 - coverage) * SHRINKAGE[:, None]
        likelihood = (betaln(inside + a, total - inside + b) - betaln(a, b)).sum(1)
        strength = SHRINKAGE[int(likelihood.argmax())]
        return np.asarray((inside + coverage * strength) / (total + strength))

    def sets(self, generator: np.random.Generator) -> np.ndarray:
        """Random sets of kinds of token (M,C, bool), each of which covers about as much of the text as its concept.

        Kinds are taken in random order for as long as that brings the set nearer to the coverage.
        """
        held = np.zeros(self._share_CK.shape, dtype=bool)
        for at, wanted in enumerate(self._labelled.concepts.sum(0)):
            missing = int(wanted)
            for kind in generator.permutation(self._count.size):
                if abs(missing - self._count[kind]) < abs(missing):
                    held[at, kind] = True
                    missing -= int(self._count[kind])
        return held[:, self._kind].T

    def alike(self, generator: np.random.Generator) -> np.ndarray:
        """Random concepts (M,C, bool) with the shares and the runs of the real ones."""
        share_CM = self._dealt(generator)[:, self._kind]
        M = self._kind.size
        shift = int(generator.integers(M // 8, M - M // 8 + 1))
        found = np.empty(self._labelled.concepts.shape, dtype=bool)
        for at, (concept, whole) in enumerate(zip(self._labelled.concepts.T, self._labelled.of_documents, strict=True)):
            if whole:
                number = np.unique(self._labelled.document, return_inverse=True)[1]
                held = np.bincount(number, weights=concept) > 0
                found[:, at] = generator.permutation(held)[number]
                continue
            turned, coverage = np.roll(concept, shift), float(concept.mean())
            run = np.cumsum(np.diff(turned, prepend=turned[0]))
            level = generator.random(int(run[-1]) + 1)[run]
            found[:, at] = np.where(turned, coverage * level, coverage + (1 - coverage) * level) < share_CM[at]
        return found

    def _dealt(self, generator: np.random.Generator) -> np.ndarray:
        """Shares (C, kinds) dealt to other kinds: the deal of several that keeps the sizes of the concepts best."""
        wanted, best, least = self._share_CK @ self._count, self._share_CK, np.inf
        for _ in range(TRIES):
            order = np.arange(self._count.size)
            for group in self._groups:
                order[group] = generator.permutation(group)
            dealt = self._share_CK[:, order]
            off = float(np.abs(np.log((dealt @ self._count) / wanted)).max())
            if off < least:
                best, least = dealt, off
            if least < math.log(1.1):
                break
        return best
