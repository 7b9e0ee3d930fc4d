"""The real corpora, where they lie beside the checkout: sizes, splits and counts that are known from elsewhere."""

from pathlib import Path

import pytest

from bdh.corpora.fetch import fetch_corpus
from bdh.corpora.readers import TableReader, read_sectors
from bdh.corpora.tokens import TokenCorpus
from bdh.params import ByteTokenizer, SplitByBlocks, load
from tests.support import corpus_cases
from tests.support.shared import shared


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shared("corpora")
    monkeypatch.setenv("BDH_CORPORA_MIRROR", str(folder))
    return folder


def build(name: str, folder: Path) -> TokenCorpus:
    return corpus_cases.build(folder, load().corpus[name], name)


def test_shakespeare_is_split_as_officially(mirror: Path, tmp_path: Path) -> None:
    corpus = build("shakespeare", tmp_path)
    data = (mirror / "tinyshakespeare/input.txt").read_bytes()
    assert len(data) == 1_115_394
    assert corpus.tokens("test").tobytes() == data[int(0.9 * len(data)) :]
    assert b"".join(corpus.tokens(split).tobytes() for split in ("train", "validation", "test")) == data
    assert corpus.vocab_size == 256
    assert 4.5 < corpus.stats["unigram_bits_per_byte"] < 5.0


def test_shakespeare_in_blocks_keeps_the_official_test_part(mirror: Path, tmp_path: Path) -> None:
    section = load().corpus["shakespeare"]
    blocks = {"by": "blocks", "validation_fraction": 0.0555, "test_fraction": 0.1, "block_bytes": 4096}
    text = section.text.model_copy(update={"split": SplitByBlocks.model_validate(blocks)})
    corpus = corpus_cases.build(tmp_path, section.model_copy(update={"text": text}), "shakespeare")
    data = (mirror / "tinyshakespeare/input.txt").read_bytes()
    assert corpus.tokens("test").tobytes() == data[int(0.9 * len(data)) :]
    assert len(corpus.tokens("test")) == 111_540
    assert len(corpus.tokens("train")) + len(corpus.tokens("validation")) == 1_003_854
    assert len(corpus.segments("validation")) == 14
    tokens = corpus.tokens("validation")
    assert all(tokens[start:end].tobytes() in data for start, end in corpus.segments("validation"))


def test_divine_comedy_has_its_hundred_cantos(mirror: Path, tmp_path: Path) -> None:
    corpus = build("divine_comedy", tmp_path)
    assert len(corpus.documents) == 100
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
