"""Sample corpora: deterministic, structured as promised, with a floor that is a floor."""

import filecmp
import lzma
import math
import re
from collections import Counter
from itertools import chain, combinations

import numpy as np
import pyarrow.parquet as pq
import pytest

from bdh.corpora.fetch import CALL_COLUMNS, SEPARATOR, fetch_corpus
from bdh.corpora.planted import read_floors, read_spans
from bdh.corpora.provenance import Provenance
from bdh.corpora.sample import words
from bdh.corpora.sample.calls import write_call, years_of
from bdh.corpora.sample.choices import Choices, Text
from bdh.corpora.sample.plays import write_play
from bdh.corpora.sample.words import PEOPLE
from bdh.corpora.tokens import TokenCorpus
from bdh.params import load
from tests.support import corpus_cases
from tests.support.shared import SHARED

PLAYS = [write_play(f"plays/0/{number}") for number in range(72)]
CALLS = [write_call(f"calls/0/{number}", year) for number, year in enumerate(years_of(80))]
TEXTS = {"plays": [text for text, _ in PLAYS], "calls": [row["content"] for row, _ in CALLS]}
PLANTED = {"plays": [planted for _, planted in PLAYS], "calls": [planted for _, planted in CALLS]}
KINDS = ("plays", "calls")


def sections() -> dict:
    return load().corpus


def floor(kind: str) -> float:
    nats = sum(planted.floor_nats for planted in PLANTED[kind])
    return nats / math.log(2) / sum(len(text.encode()) for text in TEXTS[kind])


def test_choices_account_for_what_they_do() -> None:
    choices = Choices("seed")
    counts = Counter(choices.pick("abc", (1.0, 2.0, 5.0)) for _ in range(4000))
    expected = -sum(
        count * math.log(weight / 8) for count, weight in zip(map(counts.get, "abc"), (1, 2, 5), strict=True)
    )
    assert choices.nats == pytest.approx(expected, rel=1e-9)
    assert counts["c"] / 4000 == pytest.approx(5 / 8, abs=0.03)
    assert choices.nats / 4000 == pytest.approx(-sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8)), rel=0.03)


def test_choices_of_several_cost_the_logarithm_of_their_number() -> None:
    choices = Choices("seed")
    assert len(set(choices.several(range(10), 3))) == 3
    assert choices.nats == pytest.approx(math.log(10 * 9 * 8))
    choices.forced(1.0)
    assert choices.pick(["only"]) == "only"
    assert choices.nats == pytest.approx(math.log(10 * 9 * 8))


def test_text_marks_bytes() -> None:
    text = Text()
    text.add("é ")
    with text.marked("outer"):
        text.add("a")
        text.add("日", "inner")
    assert str(text) == "é a日"
    assert [(span.concept, span.start, span.end) for span in text.spans] == [("inner", 4, 7), ("outer", 3, 7)]


@pytest.mark.parametrize("kind", KINDS)
def test_sample_is_a_few_hundred_kilobytes(kind: str) -> None:
    assert 300_000 < sum(len(text.encode()) for text in TEXTS[kind]) < 600_000
    assert min(map(len, TEXTS[kind])) > 2500


@pytest.mark.parametrize("kind", KINDS)
def test_sample_floor_lies_below_what_a_compressor_reaches(kind: str) -> None:
    size = sum(len(text.encode()) for text in TEXTS[kind])
    packed = 8 * len(lzma.compress("".join(TEXTS[kind]).encode(), preset=9)) / size
    assert 0.1 < floor(kind) < 0.6 * packed


def test_sample_texts_differ_and_share_no_choice() -> None:
    for kind in KINDS:
        assert len(set(TEXTS[kind])) == len(TEXTS[kind])
        assert len({planted.floor_nats for planted in PLANTED[kind]}) == len(TEXTS[kind])


def test_sample_words_show_which_choice_was_made() -> None:
    """No word stands twice among options: otherwise two choices would give one text, and the floor were too high."""
    nouns = list(chain.from_iterable(words.TOPICS.values()))
    openers = [opener for _, openers, _ in words.CLASSES.values() for opener in openers]
    titles = [title for titles, _, _ in words.CLASSES.values() for title, _ in titles]
    goods = list(chain.from_iterable(words.SECTORS.values()))
    causes = words.DRIVERS + words.DRAGS
    lists = [nouns + list(map(words.plural, nouns)), openers, titles, goods, causes, PEOPLE]
    lists += [words.ADJECTIVES, words.PAST, words.FUTURE, words.STATES, words.OWN]
    lists += [words.MARKETS, words.MEASURES, words.ACTIONS, words.SITES, words.MOODS]
    for words in lists:
        assert len(set(words)) == len(words), [word for word, count in Counter(words).items() if count > 1]


@pytest.mark.parametrize("kind", KINDS)
def test_sample_labels_cover_what_they_name(kind: str) -> None:
    for text, planted in zip(TEXTS[kind], PLANTED[kind], strict=True):
        data = text.encode()
        found = Counter()
        for span in planted.spans:
            part = data[span.start : span.end].decode()
            found[span.concept] += 1
            if span.concept == "stage_direction":
                assert part.startswith("[")
                assert part.endswith(".]")
            elif span.concept == "number":
                assert part.isdigit()
            elif span.concept == "agreement":
                assert part in ("is", "are")
            elif span.concept == "pronoun":
                assert part in ("he", "she", "his", "her")
            elif span.concept.startswith("topic_"):
                nouns = words.TOPICS[span.concept.removeprefix("topic_")]
                assert part in nouns + tuple(map(words.plural, nouns))
        assert all(count > 0 for count in found.values())
    every = {span.concept for planted in PLANTED[kind] for span in planted.spans}
    assert every >= {"speaker_name", "number", "agreement", "repeated_again", "repeated_first"}
    assert len({name for name in every if name.startswith(("class_", "role_"))}) >= 3
    assert len({name for name in every if name.startswith(("topic_", "sector_"))}) >= 4


def test_plays_keep_their_verbs_in_agreement() -> None:
    """The verb has the number of the first noun, whatever the second one has."""
    plurals = {words.plural(noun): noun for nouns in words.TOPICS.values() for noun in nouns}
    seen = Counter()
    for text in TEXTS["plays"]:
        for noun, between, verb in re.findall(r"the \w+ (\w+) that \w+ the ([\w ]+?) (is|are) \w+[,.!]", text):
            assert (noun in plurals) == (verb == "are")
            seen[(verb, between.split()[-1] in plurals)] += 1
    assert len(seen) == 4
    assert min(seen.values()) > 20


def test_plays_remember_who_holds_the_token() -> None:
    changes = 0
    for text in TEXTS["plays"]:
        holder, token = re.search(r"quarrel\. (\w+) has the ([\w ]+)\.", text).groups()
        for giver, receiver, now in re.findall(
            rf"\[(\w+) gives the {token} to (\w+)\.\]|now (\w+) has the {token}", text
        ):
            if giver:
                assert giver == holder
                holder, changes = receiver, changes + 1
            else:
                assert now == holder
    assert changes > 50


def test_plays_topic_persists_over_a_document() -> None:
    for planted in PLANTED["plays"]:
        topics = Counter(span.concept for span in planted.spans if span.concept.startswith("topic_"))
        assert topics.most_common(1)[0][1] > 0.4 * topics.total()


def test_names_recur_within_a_play_and_seldom_between_plays() -> None:
    casts = [set(re.findall(r"^(\w+), an? ", text, flags=re.M)) for text in TEXTS["plays"]]
    for cast, text in zip(casts, TEXTS["plays"], strict=True):
        assert sum(text.count(name) + text.count(name.upper()) for name in cast) > 8 * len(cast)
    shared = [len(one & other) for one, other in combinations(casts, 2)]
    assert np.mean(shared) < 0.5


def test_calls_have_the_schema_of_the_real_ones() -> None:
    for row, _ in CALLS:
        assert list(row) == list(CALL_COLUMNS)
        assert row["date"].endswith(" 00:00:00")
        assert row["date"][:4] == str(row["year"])
        for turn in row["structured_content"]:
            assert f"{turn['speaker']}\n{turn['text']}" in row["content"]
    real = SHARED / "corpora/sp500_earnings_transcripts/part-0.parquet"
    if real.exists():
        assert {field.name: str(field.type) for field in pq.read_schema(real)}.keys() == CALL_COLUMNS.keys()


def test_calls_repeat_their_figures_and_keep_their_direction() -> None:
    for row, _ in CALLS:
        text = row["content"]
        percent, revenue = re.search(r"by (\d+) percent to (\d+) million", text).groups()
        rose = " revenue rose by " in text
        recalls = re.findall(
            r"As we said, revenue of (\d+) million \w+ is (\w+) by (\d+) percent and (\w+) our plan", text
        )
        assert recalls
        assert set(recalls) == {(revenue, "higher" if rose else "lower", percent, "above" if rose else "below")}


def test_calls_run_from_2014_to_2022_with_most_before_2019() -> None:
    years = Counter(years_of(80))
    assert sorted(years) == list(range(2014, 2023))
    assert sum(count for year, count in years.items() if year <= 2018) == 56
    assert min(years.values()) >= 6


@pytest.mark.parametrize("name", ["sample_plays", "sample_calls"])
def test_sample_of_params_is_reproducible_and_offline(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("BDH_CORPORA_MIRROR", raising=False)
    monkeypatch.setattr("requests.get", lambda *_, **__: pytest.fail("the network was used"))
    for folder in ("1", "2"):
        fetch_corpus(name, sections()[name], tmp_path / folder, tmp_path / "downloads")
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert filecmp.cmpfiles(tmp_path / "1", tmp_path / "2", files, shallow=False) == (files, [], [])
    assert Provenance.read(tmp_path / "1").source == "generated"
    other = sections()[name].model_copy(update={"source": sections()[name].source.model_copy(update={"seed": 1})})
    fetch_corpus(name, other, tmp_path / "3", tmp_path / "downloads")
    text = Provenance.read(tmp_path / "1").text
    assert (tmp_path / "1" / text).read_bytes() != (tmp_path / "3" / text).read_bytes()


def test_more_documents_leave_the_first_ones_as_they_are(tmp_path) -> None:
    corpus = sections()["sample_plays"]
    fewer = corpus.model_copy(update={"source": corpus.source.model_copy(update={"documents": 12})})
    fetch_corpus("few", fewer, tmp_path / "few", tmp_path)
    few = (tmp_path / "few" / "plays.txt").read_text(encoding="utf-8").split(SEPARATOR)
    assert few == TEXTS["plays"][:12]


@pytest.fixture(scope="module", params=["sample_plays", "sample_calls"])
def tokenized(request, tmp_path_factory) -> TokenCorpus:
    return corpus_cases.build(tmp_path_factory.mktemp("sample"), sections()[request.param], request.param)


def test_sample_floors_reach_the_documents(tokenized: TokenCorpus) -> None:
    raw = tokenized.folder.parents[1] / "raw" / tokenized.name
    documents = tokenized.documents
    assert sorted(documents.floor_nats) == sorted(read_floors(raw))
    test = documents.query("split == 'test'")
    expected = test.floor_nats.sum() / math.log(2) / test.utf8_bytes.sum()
    assert tokenized.stats["entropy_floor"]["test"] == pytest.approx(expected)
    assert 0 < expected < 0.5 * tokenized.stats["unigram_bits_per_byte"]


def test_sample_labels_reach_the_tokens(tokenized: TokenCorpus) -> None:
    raw = tokenized.folder.parents[1] / "raw" / tokenized.name
    spans = read_spans(raw)
    assert len(tokenized.labels) == sum(map(len, spans.values()))
    labels = tokenized.labels.query("concept == 'number'").sample(100, random_state=0)
    for label in labels.itertuples():
        row = tokenized.documents.loc[label.document]
        assert row.split == label.split
        assert row.token_start <= label.token_start < label.token_end <= row.token_end
        assert re.search(r"\d", tokenized.decode(tokenized.tokens(label.split)[label.token_start : label.token_end]))
    if tokenized.name == "sample_plays":
        directions = tokenized.labels.query("concept == 'stage_direction'")
        for label in directions.itertuples():
            text = tokenized.decode(tokenized.tokens(label.split)[label.token_start : label.token_end])
            assert text[0] + text[-1] == "[]"


def test_sample_calls_are_all_in_a_sector(tokenized: TokenCorpus) -> None:
    if tokenized.name == "sample_calls":
        assert set(tokenized.documents.sector) == set(words.SECTORS)
        assert tokenized.documents.query("split == 'test'").year.nunique() == 4
        assert (tokenized.documents.speaker_turns > 10).all()
