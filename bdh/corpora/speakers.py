"""How many times the speaker changes in a transcript."""

from __future__ import annotations

import re
from typing import Any

LONGEST_NAME = 120
ANONYMOUS = re.compile(r"(Operator|Unidentified\b.*|Unknown\b.*)$")
TITLE = re.compile(r"\s+[-–—]+\s+")


def count_turns(content: memoryview, turns: Any | None) -> int | None:
    """Speaker turns of one document: the length of its list of turns, else lines that hold a speaker's name alone.

    `content` is the text in UTF-8; `turns` a list scalar, or None where the source has no such column (then
    the document is not known to be a transcript and the count is None). A null list means that speakers stand
    on their own lines: a line counts when it is "Operator" or unidentified, or a participant that the head of the
    transcript lists ("Name - Title", before the first operator's line).
    """
    if turns is None:
        return None
    if turns.is_valid:
        return len(turns)
    lines = [line.strip() for line in content.tobytes().decode("utf-8", errors="replace").split("\n")]
    first = next((i for i, line in enumerate(lines) if ANONYMOUS.match(line) or len(line) > LONGEST_NAME), len(lines))
    names = {name for line in lines[1:first] if line for name in (line, TITLE.split(line)[0])}
    names -= {"Executives", "Analysts", "Company Participants", "Conference Call Participants"}
    body = (line for line in lines[first:] if line and len(line) <= LONGEST_NAME)
    return sum(line in names or ANONYMOUS.match(line) is not None for line in body)
