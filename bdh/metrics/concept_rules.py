"""Rules that find concepts in text: figures in transcripts, who speaks in calls and plays, stage directions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_NAME = 120


@dataclass(frozen=True)
class Span:
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


def spans_of_text(text: str) -> Iterator[Span]:
    """All concepts of one document, in characters."""
    for name, pattern in PATTERNS.items():
        yield from (Span(name, *match.span()) for match in pattern.finditer(text))
    roles = list(call_roles(text))
    yield from roles or play_speeches(text)


def call_roles(text: str) -> Iterator[Span]:
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
                yield Span(f"role: {role}", start, place)
            heading, role, start = None, speaker, place + len(line)
        elif heading is not None and name and len(name) <= LONGEST_NAME:
            roles[TITLE.split(name)[0]] = heading
        place += len(line)
    if role is not None and roles:
        yield Span(f"role: {role}", start, place)


def _role_of(name: str, roles: dict[str, str]) -> str | None:
    if name == "Operator":
        return "operator"
    if ANONYMOUS.match(name) and len(name) <= LONGEST_NAME:
        return "analyst"
    return roles.get(name)


def play_speeches(text: str) -> Iterator[Span]:
    """Names of speakers and speeches by the class of the speaker.

    A name opens a paragraph and stands alone on its line, before a colon, or in capitals before a full stop.
    """
    found = list(SPEECH.finditer(text))
    for match, following in zip(found, [*found, None][1:], strict=True):
        yield Span("speaker name", match.start("name"), match.end("name"))
        end = len(text) if following is None else following.start()
        for name, pattern in CLASSES.items():
            if pattern.search(match["name"]):
                yield Span(f"class: {name}", match.end(), end)
