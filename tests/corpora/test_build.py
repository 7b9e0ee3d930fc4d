"""From text to tokens: splits, order, duplicates, sectors, spans, byte-identical results."""

import filecmp
import math
import random
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bdh.corpora import readers
from bdh.corpora.planted import read_floors
from bdh.corpora.provenance import Provenance
from bdh.corpora.readers import PlainReader, read_sectors
from bdh.corpora.speakers import read_turns
from bdh.corpora.tokens import SPLITS, TokenCorpus, fixed_windows, random_windows
from bdh.hebbian.held_out import cut, unigram_of
from bdh.params import Corpus, SplitByDate
from bdh.project.errors import CorpusError
from tests.support import corpus_cases

POEM = "Ä ship, a ship — 日本! " * 40


def documents_of(corpus: TokenCorpus, split: str) -> list[str]:
    tokens = corpus.tokens(split)
    rows = corpus.documents.query("split == @split")
    return [corpus.decode(tokens[a:b]) for a, b in zip(rows.token_start, rows.token_end, strict=True)]


def calls(count: int = 24) -> list[dict]:
    rows = []
    for number in range(count):
        date = f"{2016 + number % 5}-0{1 + number % 9}-11 00:00:00"
        turns = [{"speaker": "A", "text": "x"}] * (number % 3)
        rows.append(
            {"content": f"call number {number} of many", "date": date, "symbol": f"S{number % 4}", "turns": turns}
        )
    return rows


def test_single_text_is_cut_by_bytes_between_characters(tmp_path) -> None:
    (tmp_path / "poem.txt").write_text(POEM, encoding="utf-8")
    corpus = corpus_cases.build(tmp_path, corpus_cases.text_section(tmp_path / "poem.txt"))
    parts = [documents_of(corpus, split)[0] for split in SPLITS]
    assert "".join(parts) == POEM
    assert "\ufffd" not in "".join(parts)
    size = len(POEM.encode())
    assert len(parts[0].encode()) == pytest.approx(0.6 * size, abs=4)
    assert len(parts[2].encode()) == pytest.approx(0.2 * size, abs=4)
    assert corpus.end_of_text is None
    assert corpus.documents.utf8_bytes.sum() == size


@given(text=st.text(st.sampled_from("aé日👩"), min_size=20, max_size=60))
@settings(max_examples=40, deadline=None)
def test_split_points_never_break_a_character(tmp_path_factory, text: str) -> None:
    path = tmp_path_factory.mktemp("cut") / "t.txt"
    path.write_text(text, encoding="utf-8")
    for point in PlainReader(path).split_points([0.3, 0.5, 0.77]):
        data = path.read_bytes()
        assert data[:point].decode() + data[point:].decode() == text


@pytest.mark.parametrize("separator", ["<|end|>", {"pattern": r"<\|e[a-z]+\|>"}])
def test_documents_stay_whole_and_in_order(tmp_path, separator) -> None:
    texts = [f"text {number} " + "word " * (number % 7) for number in range(30)]
    (tmp_path / "t.txt").write_text("<|end|>".join(texts), encoding="utf-8")
    corpus = corpus_cases.build(tmp_path, corpus_cases.text_section(tmp_path / "t.txt", separator=separator))
    assert [text for split in SPLITS for text in documents_of(corpus, split)] == texts
    for split in SPLITS:
        rows = corpus.documents.query("split == @split")
        tokens = corpus.tokens(split)
        assert (tokens[rows.token_end] == corpus.end_of_text).all()
        assert (tokens == corpus.end_of_text).sum() == len(rows)
        assert rows.token_start.iloc[0] == 0
        assert (rows.token_start.iloc[1:].to_numpy() == rows.token_end.iloc[:-1].to_numpy() + 1).all()


def test_text_is_read_in_blocks_without_a_seam(tmp_path, monkeypatch) -> None:
    text = "".join(random.Random(0).choices("ab é日\n", k=5000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(readers, "BLOCK", 7)
    reader = PlainReader(tmp_path / "t.txt")
    entries = list(reader.documents())
    assert "".join(piece for _, piece in reader.pieces(entries)) == text


def test_dates_split_and_order_documents(tmp_path) -> None:
    path = corpus_cases.write_table(tmp_path / "c.parquet", random.Random(1).sample(calls(), 24))
    corpus = corpus_cases.build(tmp_path, corpus_cases.table_section(path, {"symbol": "symbol", "turns": "turns"}))
    documents = corpus.documents
    train, validation, test = (documents.query("split == @split") for split in SPLITS)
    assert len(train) + len(validation) + len(test) == 24
    assert train.date.max() <= validation.date.min() <= validation.date.max() <= "2018-12-31" < test.date.min()
    assert len(validation) == round(0.3 * (24 - len(test)))
    for part in (train, validation, test):
        assert part.date.is_monotonic_increasing
    assert (documents.year == documents.date.str[:4].astype(int)).all()
    assert set(documents.speaker_turns) == {0, 1, 2}
    by_text = {
        text: row
        for split in SPLITS
        for text, row in zip(documents_of(corpus, split), documents.query("split==@split").itertuples(), strict=True)
    }
    for row in calls():
        assert by_text[row["content"]].date == row["date"][:10]
        assert by_text[row["content"]].symbol == row["symbol"]


def test_small_batches_of_rows_give_the_same_documents(tmp_path, monkeypatch) -> None:
    path = corpus_cases.write_table(tmp_path / "c.parquet", calls())
    section = corpus_cases.table_section(path, {"symbol": "symbol"})
    whole = corpus_cases.build(tmp_path, section, "whole")
    monkeypatch.setattr(readers, "BATCH_BYTES", 1)
    rows = corpus_cases.build(tmp_path, section, "rows")
    assert whole.documents.equals(rows.documents)
    assert whole.digest == rows.digest


def test_repeated_and_empty_documents_are_left_out_and_counted(tmp_path) -> None:
    rows = calls()
    late, early = {"content": "same", "date": "2020-01-01"}, {"content": "same", "date": "2016-01-01"}
    blank = [{"content": text, "date": "2016-02-02"} for text in (None, "", " \n")]
    path = corpus_cases.write_table(tmp_path / "c.parquet", [late, *rows, early, *blank])
    corpus = corpus_cases.build(tmp_path, corpus_cases.table_section(path))
    assert corpus.stats["removed"] == {"empty": 3, "duplicates": 1, "other_sectors": 0}
    assert "same" in documents_of(corpus, "train")
    assert "same" not in documents_of(corpus, "test")
    assert len(corpus.documents) == 25


def test_no_content_stands_in_two_splits(tmp_path) -> None:
    rows = [row | {"content": f"call {number % 15}"} for number, row in enumerate(calls())]
    corpus = corpus_cases.build(
        tmp_path, corpus_cases.table_section(corpus_cases.write_table(tmp_path / "c.parquet", rows))
    )
    texts = [text for split in SPLITS for text in documents_of(corpus, split)]
    assert len(texts) == len(set(texts)) == 15


def test_sectors_are_a_column_or_joined_and_filter(tmp_path) -> None:
    path = corpus_cases.write_table(
        tmp_path / "c.parquet", [row | {"sec": row["symbol"] + " sector"} for row in calls()]
    )
    section = corpus_cases.table_section(path, {"symbol": "symbol", "sector": "sec"}, keep_sectors=["S1 sector"])
    corpus = corpus_cases.build(tmp_path, section)
    assert set(corpus.documents.sector) == {"S1 sector"}
    assert corpus.stats["removed"]["other_sectors"] == 18
    unknown = corpus_cases.table_section(path, {"symbol": "symbol", "sector": "sec"}, keep_sectors=["S9 sector"])
    with pytest.raises(CorpusError, match="'S9 sector'; there are: S0 sector"):
        corpus_cases.build(tmp_path, unknown, "unknown")


@pytest.mark.parametrize("head", ["symbol,company,gics_sector,last_listed", "Symbol,Security,GICS Sector,Founded"])
def test_sector_tables_of_both_kinds_are_read(tmp_path, head: str) -> None:
    (tmp_path / "s.csv").write_text(head + '\nAA,"A, Inc.",Metals,1\nBF-B,B,Drinks,2\nCC,C,,3\n', encoding="utf-8")
    assert read_sectors(tmp_path / "s.csv") == {"AA": "Metals", "BF.B": "Drinks"}


def test_speaker_turns_come_from_lines_where_turns_are_null() -> None:
    lines = [
        "Acme call",
        "Executives",
        "Ann Lee - Chief",
        "Analysts",
        "Bo Ray - Old Bank",
        "Operator",
        "Welcome to Acme.",
    ]
    lines += ["Ann Lee", "Thank you. Ann Lee is here.", "More words.", "Operator", "A question.", "Bo Ray - Old Bank"]
    lines += ["How?", "Ann Lee", "So.", "Unidentified Analyst", "Ok"]
    text = "\n".join(lines)
    null = pa.scalar(None, pa.list_(pa.string()))
    assert read_turns(memoryview(text.encode()), null)[0] == 6
    assert read_turns(memoryview(text.encode()), pa.scalar(["a", "b"]))[0] == 2
    assert read_turns(memoryview(text.encode()), None) == (None, b"")


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "characters"}, {"name": "bpe", "vocab_size": 280}])
def test_tokenizing_twice_gives_equal_bytes(tmp_path, tokenizer) -> None:
    path = corpus_cases.write_table(tmp_path / "c.parquet", calls())
    section = corpus_cases.table_section(path, tokenizer=tokenizer)
    first = corpus_cases.build(tmp_path / "1", section)
    second = corpus_cases.build(tmp_path / "2", section)
    names = sorted(path.name for path in first.folder.iterdir())
    assert filecmp.cmpfiles(first.folder, second.folder, names, shallow=False) == (names, [], [])
    other = corpus_cases.build(tmp_path / "3", corpus_cases.table_section(path, tokenizer=tokenizer, split=BY_POSITION))
    assert other.digest != first.digest


BY_POSITION = {"by": "position", "validation_fraction": 0.2, "test_fraction": 0.3}


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "characters"}, {"name": "bpe", "vocab_size": 280}])
def test_unigram_equals_a_slow_count(tmp_path, tokenizer) -> None:
    path = corpus_cases.write_table(tmp_path / "c.parquet", calls())
    corpus = corpus_cases.build(tmp_path, corpus_cases.table_section(path, tokenizer=tokenizer))
    train = corpus.tokens("train").tolist()
    rows = corpus.documents.query("split == 'test'")
    targets = [
        t
        for a, b in zip(rows.token_start, rows.token_end, strict=True)
        for t in corpus.tokens("test")[a + 1 : b].tolist()
    ]
    nats = -sum(math.log((train.count(t) + 1) / (len(train) + corpus.vocab_size)) for t in targets)
    expected = nats / math.log(2) / corpus.token_bytes[targets].sum()
    assert corpus.stats["unigram_bits_per_byte"] == pytest.approx(expected, rel=1e-12)
    assert 0.5 < expected < 8.0
    whole, some = (cut(corpus, "test", 16, most) for most in (10**9, 20))
    assert unigram_of(corpus, whole) == pytest.approx(expected, rel=1e-12)
    assert some.scored < whole.scored
    assert unigram_of(corpus, some) != pytest.approx(expected, rel=1e-6)


def test_characters_know_the_training_split_alone(tmp_path) -> None:
    (tmp_path / "t.txt").write_text("abc " * 60 + "ŵ" * 30 + "xyz " * 20, encoding="utf-8")
    corpus = corpus_cases.build(
        tmp_path, corpus_cases.text_section(tmp_path / "t.txt", tokenizer={"name": "characters"})
    )
    assert corpus.vocab_size == 256 + len("abc ")
    assert documents_of(corpus, "test")[0].endswith("xyz ")


def test_documents_have_the_promised_columns(tmp_path) -> None:
    corpus = corpus_cases.build(
        tmp_path, corpus_cases.table_section(corpus_cases.write_table(tmp_path / "c.parquet", calls()))
    )
    promised = {"id", "split", "symbol", "company", "sector", "date", "year", "quarter", "speaker_turns"}
    promised |= {"token_start", "token_end", "utf8_bytes"}
    assert promised <= set(corpus.documents.columns)
    assert corpus.documents.id.is_unique
    assert corpus.documents.quarter.isna().all()
    assert corpus.labels is None
    assert len(corpus.digest) == 64


def test_tokens_are_mapped_and_read_only(tmp_path) -> None:
    corpus = corpus_cases.build(
        tmp_path, corpus_cases.table_section(corpus_cases.write_table(tmp_path / "c.parquet", calls()))
    )
    tokens = corpus.tokens("train")
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_failed_run_leaves_the_previous_tokens(tmp_path) -> None:
    path = corpus_cases.write_table(tmp_path / "c.parquet", calls())
    corpus = corpus_cases.build(tmp_path, corpus_cases.table_section(path))
    corpus_cases.write_table(path, [{"content": "one", "date": "2016-01-01"}])
    with pytest.raises(CorpusError, match="split train is empty"):
        corpus_cases.build(tmp_path, corpus_cases.table_section(path))
    assert TokenCorpus.open(corpus.folder).digest == corpus.digest
    assert [entry.name for entry in corpus.folder.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("written", ["2018-12-31", '"2018-12-31"', "'2018-12-31'"])
def test_dates_may_be_quoted_or_not(written: str) -> None:
    split = yaml.safe_load(f"by: date\ntrain_until: {written}\nvalidation_fraction: 0.1")
    assert SplitByDate.model_validate(split).train_until.isoformat() == "2018-12-31"


BY_BLOCKS = {"by": "blocks", "validation_fraction": 0.25, "test_fraction": 0.2, "block_bytes": 64}


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "characters"}, {"name": "bpe", "vocab_size": 280}])
def test_blocks_of_a_single_text_cover_it_and_do_not_overlap(tmp_path, tokenizer) -> None:
    text = "".join(random.Random(0).choices("ab é日\n", k=3000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    section = corpus_cases.text_section(tmp_path / "t.txt", split=BY_BLOCKS, tokenizer=tokenizer)
    corpus = corpus_cases.build(tmp_path, section)
    train, validation, (test,) = (documents_of(corpus, split) for split in SPLITS)
    data = text.encode()
    early, late = data[: -len(test.encode())], data[-len(test.encode()) :]
    assert late.decode() == test
    assert len(late) == pytest.approx(0.2 * len(data), abs=4)
    assert len(validation) == round(len(early) / 64 / 4)
    in_turns = [part for pair in zip_longest(train, validation, fillvalue="") for part in pair]
    assert "".join(in_turns).encode() == early, "every byte before the test part, once and in order"
    assert all(len(part.encode()) == pytest.approx(64, abs=4) for part in validation)
    assert corpus.documents.id.is_unique


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "bpe", "vocab_size": 280}])
def test_no_window_crosses_a_cut_between_blocks(tmp_path, tokenizer) -> None:
    """Words are numbered: a window over a cut would jump over numbers."""
    text = "".join(f"{number:05d}," for number in range(3000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    section = corpus_cases.text_section(tmp_path / "t.txt", split=BY_BLOCKS, tokenizer=tokenizer)
    corpus = corpus_cases.build(tmp_path, section)
    for split in ("train", "validation"):
        tokens, segments = corpus.tokens(split), corpus.segments(split)
        random_ones = [random_windows(tokens, 32, 12, seed=0, step=step, segments=segments) for step in range(20)]
        for inputs, targets in (*random_ones, fixed_windows(tokens, 1000, 12, segments)):
            read = [corpus.decode([*row, last]) for row, last in zip(inputs, targets[:, -1], strict=True)]
            assert all(piece in text for piece in read)
        over = [corpus.decode(row) for row in random_windows(tokens, 99, 12, seed=0, step=0)[0]]
        assert not all(piece in text for piece in over), "windows that know nothing of the cuts do cross them"
    with pytest.raises(CorpusError, match=r"needs a split of at least 3001, this one has .* in one piece"):
        random_windows(tokens, 1, 3000, 0, 0, segments=segments)


def test_blocks_of_several_documents_are_the_documents(tmp_path) -> None:
    texts = [f"text {number:02d}" for number in range(40)]
    (tmp_path / "t.txt").write_text("--".join(texts), encoding="utf-8")
    section = corpus_cases.text_section(tmp_path / "t.txt", separator="--", split=BY_BLOCKS)
    corpus = corpus_cases.build(tmp_path, section)
    assert documents_of(corpus, "test") == texts[32:]
    assert documents_of(corpus, "validation") == texts[2:32:4]
    assert documents_of(corpus, "train") == [text for number, text in enumerate(texts[:32]) if number % 4 != 2]
    assert corpus.segments("train").tolist() == [[0, len(corpus.tokens("train"))]]


def test_parts_of_a_generated_text_claim_no_floor_and_no_concept(tmp_path) -> None:
    """A single play is cut: what is planted in the whole stood at wrong places of all three parts."""
    source = {"kind": "generated", "generator": "plays", "seed": 0, "documents": 1}
    whole = corpus_cases.text_section(tmp_path / "t.txt").model_dump(mode="json", exclude_unset=True) | {
        "source": source
    }
    corpus = corpus_cases.build(tmp_path, Corpus.model_validate(whole))
    assert corpus.stats["entropy_floor"] is None
    assert corpus.labels is corpus.speakers is None


def test_our_files_in_another_shape_are_one_line_that_names_them(tmp_path) -> None:
    path = corpus_cases.write_table(tmp_path / "c.parquet", calls())
    corpus = corpus_cases.build(tmp_path, corpus_cases.table_section(path))
    again = "`dvc repro -f tokenize@mine` makes it again"
    corpus_cases.write_table(corpus.folder / "documents.parquet", [{"id": "a", "split": "test"}])
    with pytest.raises(CorpusError, match=f"documents.parquet: column 'symbol' should hold string.*{again}"):
        _ = corpus.documents
    (corpus.folder / "documents.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=f"documents.parquet is damaged .*{again}"):
        _ = corpus.documents
    (corpus.folder / "stats.json").write_text('{"name": "mine", "digest": "d", "splits": {}}', encoding="utf-8")
    with pytest.raises(CorpusError, match=f"stats.json has another shape .*tokenizer.*{again}"):
        TokenCorpus.open(corpus.folder)
    raw = tmp_path / "raw/mine"
    corpus_cases.write_table(raw / "floors.parquet", [{"bits": 1.0}])
    with pytest.raises(CorpusError, match=r"floors.parquet: column 'nats' .* `dvc repro -f fetch@mine` makes it again"):
        read_floors(raw)
    for content in ("[]", '{"source": "local", "text": "t", "files": [], "more": 1}', '{"files": [{"name": "t"}]}'):
        (raw / "provenance.json").write_text(content, encoding="utf-8")
        with pytest.raises(CorpusError, match=r"provenance.json has another shape .* `dvc repro -f fetch@mine`"):
            Provenance.read(raw)
