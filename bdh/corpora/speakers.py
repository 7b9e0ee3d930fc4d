"""Who speaks where in a transcript: its turns, and the role of every speaker as its head lists them.

The head of a transcript holds the participants under headings, "Name - Title" or the name alone, until the first
speaker's line (or a line too long for a name). Roles: `operator`; `executive` and `analyst` by heading; `unlisted` for
a speaker whom the head does not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from bdh.corpora.planted import PlantedSpan

ROLES = ("operator", "executive", "analyst", "unlisted")
HEADINGS = {
    "executives": "executive",
    "company participants": "executive",
    "corporate participants": "executive",
    "company representatives": "executive",
    "analysts": "analyst",
    "conference call participants": "analyst",
}
LONGEST_NAME = 120
ANONYMOUS = re.compile(r"(Operator|Unidentified\b.*|Unknown\b.*)$")
TITLE = re.compile(r"\s+[-–—]+\s+")


def read_turns(content: memoryview, turns: Any | None) -> tuple[int | None, bytes]:
    """Number of speaker turns of one document, and who speaks where, packed for `spans_of`.

    `content` is the text in UTF-8; `turns` a list scalar of structs (speaker, text), or None where the source has no
    such column (then the document is not known to be a transcript: None, nobody). A null list means that speakers
    stand on their own lines: a line counts when it is "Operator" or unidentified, or a participant that the head
    lists. A listed turn whose text the content does not hold is counted and has no place.
    """
    if turns is None:
        return None, b""
    lines = list(_lines(content.tobytes()))
    roles, first = _head(lines)
    if turns.is_valid:
        listed = [turn for turn in turns.as_py() if isinstance(turn, dict)]
        return len(turns), _pack(_listed(content.tobytes(), listed, roles))
    starts = [i for i, (_, line, _) in enumerate(lines) if i >= first and _is_speaker(line, roles)]
    ends = [*(lines[i][0] for i in starts[1:]), len(content)][: len(starts)]
    spans = [(role_of(lines[i][1], roles), lines[i][2], end) for i, end in zip(starts, ends, strict=True)]
    return len(starts), _pack([span for span in spans if span[1] < span[2]])


def spans_of(turns: bytes) -> list[PlantedSpan]:
    """The packed turns of a document as byte spans of its text, named by role; the speaker's own line is left out."""
    rows = np.frombuffer(turns, dtype=np.int64).reshape(-1, 3)
    return [PlantedSpan(ROLES[role], start, end) for role, start, end in rows.tolist()]


def role_of(speaker: str, roles: dict[str, str]) -> str:
    """The role of a speaker whose line or name this is, given the roles of the head."""
    if speaker == "Operator":
        return "operator"
    for name in (speaker, TITLE.split(speaker)[0]):
        if name in roles:
            return roles[name]
    if ANONYMOUS.match(speaker) and "analyst" in speaker.lower():
        return "analyst"
    return "unlisted"


def _pack(spans: list[tuple[str, int, int]]) -> bytes:
    return np.array([(ROLES.index(role), start, end) for role, start, end in spans], dtype=np.int64).tobytes()


def _lines(content: bytes) -> Iterator[tuple[int, str, int]]:
    """Place of every line in bytes, its stripped text, and the place of the line after it."""
    start = 0
    for line in content.split(b"\n"):
        end = start + len(line) + 1
        yield start, line.decode("utf-8", errors="replace").strip(), min(end, len(content))
        start = end


def _head(lines: list[tuple[int, str, int]]) -> tuple[dict[str, str], int]:
    """Role of every name that the head lists, and the number of its lines.

    The head ends before the line of an anonymous speaker or of somebody whom it has listed already, or before the line
    that stands above the first one too long for a name: its speaker is unlisted.
    """
    roles: dict[str, str] = {}
    role, last = "unlisted", 0
    for i, (_, line, _) in enumerate(lines):
        if i and (ANONYMOUS.match(line) or line in roles):
            return roles, i
        if i and len(line) > LONGEST_NAME:
            if last:
                roles[lines[last][1]] = "unlisted"
            return roles, last or i
        if line.lower().rstrip(":") in HEADINGS:
            role, last = HEADINGS[line.lower().rstrip(":")], 0
        elif i and line:
            roles |= dict.fromkeys((line, TITLE.split(line)[0]), role)
            last = i
    return roles, len(lines)


def _is_speaker(line: str, roles: dict[str, str]) -> bool:
    return bool(line) and len(line) <= LONGEST_NAME and (line in roles or ANONYMOUS.match(line) is not None)


def _listed(content: bytes, turns: list[dict[str, Any]], roles: dict[str, str]) -> list[tuple[str, int, int]]:
    """Role and byte span of every listed turn, found one after the other in the text."""
    spans, place = [], 0
    for turn in turns:
        said = str(turn.get("text") or "").strip()
        start = content.find(said.encode("utf-8"), place) if said else -1
        if start >= 0:
            place = start + len(said.encode("utf-8"))
            spans.append((role_of(str(turn.get("speaker") or "").strip(), roles), start, place))
    return spans
