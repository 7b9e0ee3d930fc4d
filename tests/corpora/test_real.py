"""The real corpora, where they lie beside the checkout: sizes, splits and counts that are known from elsewhere."""

import itertools
from pathlib import Path

import pytest

from bdh.corpora.fetch import fetch_corpus
from bdh.corpora.readers import TableReader, read_sectors
from bdh.corpora.tokens import TokenCorpus
from bdh.params import ByteTokenizer, load
from tests.support import corpus_cases
from tests.support.shared import shared


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shared("corpora")
    monkeypatch.setenv("BDH_CORPORA_MIRROR", str(folder))
    return folder


def build(name: str, folder: Path) -> TokenCorpus:
    return corpus_cases.build(folder, load().corpus[name], name)


def test_shakespeare_is_tested_on_the_official_part_and_validated_all_over_the_rest(
    mirror: Path, tmp_path: Path
) -> None:
    """The test bytes are nanoGPT's validation bytes; a validation part right before them is half of the same play."""
    corpus = build("shakespeare", tmp_path)
    data = (mirror / "tinyshakespeare/input.txt").read_bytes()
    assert len(data) == 1_115_394
    assert corpus.tokens("test").tobytes() == data[int(0.9 * len(data)) :]
    assert len(corpus.tokens("test")) == 111_540
    assert len(corpus.tokens("train")) + len(corpus.tokens("validation")) == 1_003_854
    tokens, segments = corpus.tokens("validation"), corpus.segments("validation")
    starts = [data.index(tokens[start:end].tobytes()) for start, end in segments]
    assert len(starts) == 14
    assert all(70_000 < after - before < 78_000 for before, after in itertools.pairwise(starts))
    assert corpus.vocab_size == 256
    assert 4.5 < corpus.stats["unigram_bits_per_byte"] < 5.0


def test_divine_comedy_has_its_hundred_cantos(mirror: Path, tmp_path: Path) -> None:
    corpus = build("divine_comedy", tmp_path)
    assert corpus.documents["split"].value_counts().to_dict() == {"train": 85, "validation": 5, "test": 10}
    tokens = corpus.tokens("test")
    for row in corpus.documents.query("split == 'test'").itertuples():
        assert corpus.decode(tokens[row.token_start : row.token_start + 6]) == "CANTO "


def test_tinystories_falls_into_stories(mirror: Path, tmp_path: Path) -> None:
    section = load().corpus["tinystories"].model_copy(update={"tokenizer": ByteTokenizer(name="bytes")})
    corpus = corpus_cases.build(tmp_path, section, "tinystories")
    documents = corpus.documents
    assert 5000 < len(documents) < 5600
    starts = [
        corpus.decode(corpus.tokens("test")[row.token_start :][:8])
        for row in documents.query("split == 'test'").itertuples()
    ]
    assert sum(start.startswith(("once", "one ")) for start in starts) > 0.6 * len(starts)


def test_transcripts_are_fetched_with_their_tokenizer_and_sectors(mirror: Path, tmp_path: Path) -> None:
    provenance = fetch_corpus("transcripts", load().corpus["transcripts"], tmp_path / "raw", tmp_path / "downloads")
    assert [file.name for file in provenance.files] == [
        "part-0.parquet",
        "sp500_gics_sectors.csv",
        "vocab.json",
        "merges.txt",
    ]
    assert all(file.pinned and file.source == "mirror" for file in provenance.files)


@pytest.mark.slow
def test_transcripts_are_as_described(mirror: Path) -> None:
    columns = load().corpus["transcripts"].text.columns
    path = mirror / "sp500_earnings_transcripts/part-0.parquet"
    entries = list(TableReader(path, columns, read_sectors(mirror / "sp500_gics_sectors.csv")).documents())
    assert len(entries) == 1950
    assert len({entry.digest for entry in entries}) == 1950
    assert len({entry.id for entry in entries}) == 1950
    assert sum(entry.date <= "2018-12-31" for entry in entries) == 1350
    assert sum(entry.quarter is None for entry in entries) == 33
    sectors = [entry.sector for entry in entries]
    assert None not in sectors
    assert {sector: sectors.count(sector) for sector in set(sectors)} == dict.fromkeys(set(sectors), 117) | {
        "Information Technology": 780
    }
    turns = sorted(entry.speaker_turns for entry in entries)
    assert turns[len(turns) // 20] > 5
    assert 30 < turns[len(turns) // 2] < 200
