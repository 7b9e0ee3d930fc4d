"""Stage B in numbers: totals, strata, the sweep, and what too little text cannot tell."""

import dataclasses
import math

import numpy as np
import pytest

from bdh.hebbian import held_out as held_out_text
from bdh.hebbian.evaluation import evaluate
from bdh.hebbian.scores import SCORES, Scores
from bdh.models.base import build
from bdh.params import Corpus
from tests.support import corpus_cases
from tests.support.arm_readings import hebbian_settings, nats_of
from tests.support.held_out_text import VOCAB, held_out, small_bdh

SETTINGS = hebbian_settings()


LENGTHS = (70, 33, 9, 50, 41, 26, 18, 60, 30)


def spoken(text):
    """The text with two speakers who take turns of five tokens, and nobody in the first three tokens of a document."""
    role = np.where(text.position < 4, -1, text.position // 5 % 2)
    return dataclasses.replace(text, roles=("analyst", "executive"), role=role)


def test_hebbian_report_adds_up():
    text = spoken(held_out(LENGTHS))
    found = evaluate(small_bdh(), text, SETTINGS)
    report, table = found.report, found.documents
    assert report["weights_sha256_before"] == report["weights_sha256_after"]
    assert report["tokens"] == sum(LENGTHS) - len(LENGTHS) == text.scored
    for name, arm in report["arms"].items():
        rows = table[table["arm"] == name]
        assert rows["tokens"].sum() == arm["tokens"] == report["tokens"]
        assert rows["bytes"].sum() == arm["bytes"] == report["bytes"]
        assert rows["nats"].sum() / arm["tokens"] == pytest.approx(arm["nats_per_token"], rel=1e-12)
        assert arm["bits_per_byte"] == pytest.approx(rows["nats"].sum() / math.log(2) / arm["bytes"], rel=1e-12)
        assert arm["perplexity"] == pytest.approx(math.exp(arm["nats_per_token"]))
        assert arm["bits_low"] < arm["bits_per_byte"] < arm["bits_high"]
        for strata in (arm["by_position"], arm["by_window"], arm["by_year"].values()):
            assert sum(part["tokens"] for part in strata) == arm["tokens"]
            assert sum(part["nats_per_token"] * part["tokens"] for part in strata) == pytest.approx(rows["nats"].sum())
        assert set(arm["by_sector"]) == {"Energy", "Health Care"}
        assert set(arm["by_role"]) == {"analyst", "executive"}
        assert sum(part["tokens"] for part in arm["by_role"].values()) == (text.position >= 4).sum()
    static = report["arms"]["static"]
    assert static["difference_to_static"] == static["ci_low"] == static["ci_high"] == 0.0
    assert report["arms"]["observe"]["bits_per_byte"] == static["bits_per_byte"]
    carry = report["arms"]["carry"]
    assert carry["difference_to_static"] == pytest.approx(carry["bits_per_byte"] - static["bits_per_byte"])
    assert carry["ci_low"] <= carry["difference_to_static"] <= carry["ci_high"]
    assert carry["by_role"]["analyst"]["ci_low"] < carry["by_role"]["analyst"]["ci_high"]
    overlap = report["arms"]["overlap"]
    assert overlap["difference_to_overlap"] == overlap["overlap_low"] == overlap["overlap_high"] == 0.0
    assert static["difference_to_overlap"] == pytest.approx(-overlap["difference_to_static"])
    for name in ("carry", "shuffled"):
        arm = report["arms"][name]
        assert arm["difference_to_overlap"] == pytest.approx(arm["bits_per_byte"] - overlap["bits_per_byte"])
        assert arm["overlap_low"] < arm["difference_to_overlap"] < arm["overlap_high"]
        gains = [part["difference_to_overlap"] * part["bytes"] for part in arm["by_window"]]
        assert sum(gains) == pytest.approx(arm["difference_to_overlap"] * arm["bytes"])


def test_hebbian_quarters_of_the_window_tell_a_repaired_border_from_a_memory():
    """Two planted arms: one gains at the first inputs of windows alone, one at all of them."""
    text = held_out((200,) * 9, window=18)
    border = np.where((text.position - 1) % text.window < 5, 0.5, 0.0)
    static = np.random.default_rng(0).gamma(2.0, 1.0, text.scored)
    scores = Scores(text, static, 100, overlap=static - border)
    for gain, expected in ((border, (0.5, 0.0, 0.0, 0.0)), (np.full(text.scored, 0.1), (0.1, 0.1, 0.1, 0.1))):
        parts = scores.arm(static - gain)["by_window"]
        assert [(part["from"], part["to"]) for part in parts] == [(0, 5), (5, 9), (9, 14), (14, 18)]
        per_token = [-part["difference_to_static"] * math.log(2) * part["bytes"] / part["tokens"] for part in parts]
        assert per_token == pytest.approx(expected, abs=1e-9)
        beyond = [-part["difference_to_overlap"] * math.log(2) * part["bytes"] / part["tokens"] for part in parts]
        assert beyond == pytest.approx(np.subtract(expected, (0.5, 0.0, 0.0, 0.0)), abs=1e-9)


def test_hebbian_without_overlaps_nothing_is_compared_with_them():
    report = evaluate(small_bdh(), held_out(LENGTHS), hebbian_settings(overlaps=())).report
    assert "hebbian.overlaps in params.yaml does not list 0.5" in report["arms"]["overlap"]["reason"]
    assert "does not list 0.25" in report["arms"]["overlap_quarter"]["reason"]
    assert report["arms"]["carry"]["difference_to_overlap"] is report["arms"]["carry"]["overlap_low"] is None
    assert report["arms"]["carry"]["difference_to_static"] is not None


def test_hebbian_strata_of_few_documents_are_not_measurable():
    report = evaluate(small_bdh(), held_out(LENGTHS), SETTINGS).report
    years = report["arms"]["carry"]["by_year"]
    assert {year: part["documents"] for year, part in years.items()} == {"2019": 5, "2020": 4}
    for part in years.values():
        assert part["reason"].startswith("not measurable: units of text (document): ")
        assert part["difference_to_static"] is part["ci_low"] is part["ci_high"] is part["bits_low"] is None
    buckets = report["arms"]["carry"]["by_position"]
    assert [bucket["from"] for bucket in buckets] == [1, 2, 4, 8, 16, 32, 64]
    assert [bucket["difference_to_static"] is None for bucket in buckets] == [
        bucket["documents"] < 8 for bucket in buckets
    ]
    assert report["no_strata"] == {"by_role": "the corpus names no speakers"}


def test_hebbian_short_evaluation_is_not_measurable():
    report = evaluate(small_bdh(), held_out((30,)), SETTINGS).report
    for name in ("carry", "carry_corpus", "longer_context"):
        arm = report["arms"][name]
        assert arm["reason"] == (
            "not measurable: units of text (block of 1024 tokens): 1; the paired bootstrap takes 8 or more"
        )
        assert arm["bits_per_byte"] > 0
        assert all(arm[number] is None for number in ("difference_to_static", "ci_low", "ci_high", "bits_low"))
    assert "there is no other to take a state from" in report["arms"]["shuffled"]["reason"]
    assert report["arms"]["observe"]["difference_to_static"] == 0.0
    assert all(row["difference_to_static"] is None and row["reason"] for row in report["damping_sweep"]["rows"])


def test_hebbian_sweep_holds_the_carry_arm_and_orders_the_half_lives():
    text, model = held_out(LENGTHS), small_bdh()
    settings = hebbian_settings(sweep=(0.5, 0.97, 1.0))
    report = evaluate(model, text, settings).report
    rows = report["damping_sweep"]["rows"]
    assert [row["damping"] for row in rows] == [0.5, 0.97, 1.0]
    assert [row["half_life_tokens"] for row in rows] == [1.0, pytest.approx(22.76, rel=1e-3), None]
    assert {name: rows[1][name] for name in SCORES} == {name: report["arms"]["carry"][name] for name in SCORES}
    for row in rows:
        alone = nats_of("carry", model, text, row["damping"])
        assert row["nats_per_token"] == pytest.approx(alone.mean(), rel=1e-5)
    assert rows[0]["norm"] < rows[2]["norm"]
    control = evaluate(build("transformer", vocab_size=VOCAB, seed=0), text, settings).report["damping_sweep"]
    assert control["rows"] == []
    assert "no state of constant size" in control["reason"]


@pytest.fixture(scope="module")
def both_tokenizers(tmp_path_factory):
    """The same documents as bytes and as byte pairs; some characters take two and three bytes."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    words = ["river", "stone", "café", "naïve", "the", "over", "≤", "longer"]
    texts = [" ".join(generator.choice(words, 90)) for _ in range(50)]
    (folder / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    kinds = {"bytes": {"name": "bytes"}, "bpe": {"name": "bpe", "vocab_size": 300}}
    return {
        name: corpus_cases.build(
            folder, corpus_cases.text_section(folder / "text.txt", separator="\n\n", tokenizer=kind), name
        )
        for name, kind in kinds.items()
    }


def test_hebbian_bits_per_byte_agree_between_bytes_and_byte_pairs(both_tokenizers):
    """A model of bytes costs every text the same, however it is cut into tokens: so must the accounting say."""
    cost_by_byte = np.random.default_rng(1).gamma(2.0, 1.0, 256)
    spoken_bytes = [np.asarray(document) for document in documents_of(both_tokenizers["bytes"])]
    found = {}
    for name, corpus in both_tokenizers.items():
        text, nats, first = held_out_text.cut(corpus, "test", 32, 10**9), [], 0.0
        for ids, written in zip(documents_of(corpus), spoken_bytes, strict=True):
            ends = np.cumsum(corpus.token_bytes[ids])
            assert ends[-1] == len(written)
            spent = np.diff(np.concatenate([[0.0], np.cumsum(cost_by_byte[written])])[[0, *ends]])
            nats.append(spent[1:])
            first += spent[0]
        report = Scores(text, np.concatenate(nats), 100).total(np.concatenate(nats))
        firsts = sum(int(corpus.token_bytes[ids[0]]) for ids in documents_of(corpus))
        size = sum(len(written) for written in spoken_bytes)
        assert report["bytes"] == size - firsts, "all bytes but those of a document's first token are scored"
        found[name] = (report["bits_per_byte"] * report["bytes"] * math.log(2) + first) / size
        flat = math.log(256) * text.token_bytes
        assert Scores(text, flat, 100).total(flat)["bits_per_byte"] == pytest.approx(8.0, rel=1e-12)
        assert report["bits_low"] < report["bits_per_byte"] < report["bits_high"]
    assert found["bytes"] == pytest.approx(found["bpe"], rel=1e-12)


def documents_of(corpus):
    """Ids of every document of the test split."""
    rows, tokens = corpus.documents.query("split == 'test'"), corpus.tokens("test")
    return [np.asarray(tokens[a:b]) for a, b in zip(rows["token_start"], rows["token_end"], strict=True)]


def test_hebbian_roles_of_sample_calls_are_the_planted_ones(tmp_path):
    """What the head of a call and its turns tell, against what the generator says; read through the held-out text."""
    source = {"kind": "generated", "generator": "calls", "seed": 3, "documents": 20}
    columns = corpus_cases.COLUMNS | {"date": "date", "turns": "structured_content", "symbol": "symbol"}
    text = {"format": "parquet", "columns": columns, "sectors": None, "keep_sectors": [], "split": corpus_cases.BY_DATE}
    whole = {"source": source, "text": text, "tokenizer": {"name": "bytes"}, "scales": corpus_cases.SCALES}
    corpus = corpus_cases.build(tmp_path, Corpus.model_validate(whole))
    columns = ["document", "split", "token_start", "token_end"]
    planted = corpus.labels[corpus.labels["concept"].str.startswith("role_")]
    planted = planted.assign(role=planted["concept"].str.removeprefix("role_"))[[*columns, "role"]]
    told = corpus.speakers[[*columns, "role"]]
    order = ["document", "token_start"]
    assert told.sort_values(order).to_numpy().tolist() == planted.sort_values(order).to_numpy().tolist()
    held = held_out_text.cut(corpus, "test", 32, 3000)
    assert held.roles == ("analyst", "executive", "operator")
    tokens = corpus.tokens("test")
    for row in planted.query("split == 'test' and document == document.min()").itertuples():
        start = row.token_start - int(corpus.documents["token_start"][row.document])
        said = held.role[start - 1 : row.token_end - row.token_start + start - 1]
        assert set(said) <= {held.roles.index(row.role)}
        assert np.array_equal(held.targets[start - 1 :][: len(said)], tokens[row.token_start :][: len(said)])
    assert -1 in held.role, "names and the head of a call are said by nobody"


def test_hebbian_text_without_speakers_has_no_roles(both_tokenizers):
    assert both_tokenizers["bytes"].speakers is None
    assert held_out_text.cut(both_tokenizers["bytes"], "test", 32, 100).roles == ()
