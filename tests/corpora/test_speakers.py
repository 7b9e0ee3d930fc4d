"""Who speaks where in a transcript, from its own lines and from listed turns."""

import itertools

import pyarrow as pa
import pytest

from bdh.corpora.speakers import read_turns, spans_of
from tests.support.shared import shared

NULL = pa.scalar(None, pa.list_(pa.string()))
HEAD = ["Acme call", "Executives", "Ann Lee - Chief", "Zoë Ö - Finance", "Analysts", "Bo Ray – Old Bank"]


def said(lines, turns=NULL):
    """(role, text) of every turn, cut out of the UTF-8 text."""
    content = "\n".join(lines).encode()
    count, packed = read_turns(memoryview(content), turns)
    spans = spans_of(packed)
    return count, [(span.concept, content[span.start : span.end].decode().strip()) for span in spans]


def test_speakers_of_lines_have_the_roles_of_the_head():
    lines = [*HEAD, "", "Operator", "Welcome, café.", "Zoë Ö", "Thanks. Ann Lee is here.", "More."]
    lines += ["Unidentified Analyst", "Ok?", "Bo Ray – Old Bank", "How?", "Unknown Speaker", "Hm", "Ann Lee", "So."]
    count, turns = said(lines)
    assert count == 6
    assert turns == [
        ("operator", "Welcome, café."),
        ("executive", "Thanks. Ann Lee is here.\nMore."),
        ("analyst", "Ok?"),
        ("analyst", "How?"),
        ("unlisted", "Hm"),
        ("executive", "So."),
    ]


def test_speakers_without_an_operator_start_where_a_listed_one_comes_again():
    count, turns = said([*HEAD, "Ann Lee - Chief", "Hello.", "Bo Ray", "Hi."])
    assert (count, turns) == (2, [("executive", "Hello."), ("analyst", "Hi.")])


def test_speakers_above_a_long_line_are_no_participants():
    count, turns = said([*HEAD, "Cy Fox", "Good day. " * 20, "Ann Lee", "Yes."])
    assert count == 2
    assert [role for role, _ in turns] == ["unlisted", "executive"]


def test_speakers_of_listed_turns_are_found_in_their_order():
    pairs = [("Operator", "Welcome."), ("Ann Lee", "So."), ("Cy Fox", "not in the text"), ("Bo Ray", "So.")]
    turns = pa.scalar([{"speaker": speaker, "text": text} for speaker, text in pairs])
    lines = [*HEAD, "Operator", "Welcome.", "Ann Lee", "So.", "Bo Ray", "So."]
    assert said(lines, turns) == (4, [("operator", "Welcome."), ("executive", "So."), ("analyst", "So.")])


@pytest.mark.parametrize("text", ["", "\n\n", "one line", "Executives", "Operator"])
def test_speakers_of_odd_texts_are_nobody(text):
    _, turns = said([text])
    assert turns == []
    assert read_turns(memoryview(text.encode()), None) == (None, b"")


def test_speakers_of_real_transcripts_cover_them():
    """Nine tenths of the text of real calls is said by somebody whom the head lists."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(shared("corpora/sp500_earnings_transcripts/part-0.parquet"))
    batch = next(file.iter_batches(batch_size=60, columns=["content", "structured_content"]))
    size = known = 0
    for content, turns in zip(batch.column(0), batch.column(1), strict=True):
        spans = spans_of(read_turns(memoryview(content.as_buffer()), turns)[1])
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
        size += len(content.as_buffer())
        known += sum(span.end - span.start for span in spans if span.concept != "unlisted")
    assert known > 0.9 * size
