"""Tokenizers: lossless, byte-exact lengths, deterministic, GPT-2's own numbers."""

import hashlib
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdh.corpora.documents import cut
from bdh.corpora.tokenizer import END_OF_TEXT, BytePairs, Bytes, Characters, Tokenizer, load
from bdh.project.errors import CorpusError
from tests.support.shared import shared

SAMPLE = "It's the old lantern, the old oar and the oldest map: 'twas 1,024 francs.\n\n  Né à Zürich… 日本語\n" * 9
TRICKY = ("", " ", "\n\n \t x", f"a {END_OF_TEXT} b", "\0", "👩‍👩‍👧 e\u0301", "\u00a0\u3000 \u2028x", "'ll 're\u1e9e")


@cache
def gpt2() -> BytePairs:
    return BytePairs.gpt2(shared("corpora/gpt2/vocab.json"), shared("corpora/gpt2/merges.txt"))


@cache
def trained() -> BytePairs:
    return BytePairs.train([SAMPLE], 300)


def tokenizer_of(name: str) -> Tokenizer:
    makers = {
        "bytes": lambda: Bytes(False),
        "characters": lambda: Characters(SAMPLE, True),
        "bpe": trained,
        "gpt2": gpt2,
    }
    return makers[name]()


NAMES = ("bytes", "characters", "bpe", "gpt2")


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=60, deadline=None)
def test_tokenizer_decodes_what_it_encodes(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode("utf-8"))
    assert tokenizer.end_of_text not in ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", TRICKY)
def test_tokenizer_is_lossless_on_tricky_text(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert int(tokenizer.token_bytes[tokenizer.encode(text)].sum()) == len(text.encode("utf-8"))


@pytest.mark.parametrize("name", NAMES)
@given(
    text=st.text(st.sampled_from("ab'lsé1.! \n\t\u00a0\u3000日"), min_size=1, max_size=200),
    size=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_tokenizer_gives_pieces_the_ids_of_the_whole(name: str, text: str, size: int) -> None:
    tokenizer = tokenizer_of(name)
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert np.concatenate(tokenizer.encode_many(pieces)).tolist() == tokenizer.encode(text)


def test_cut_in_the_wrong_place_would_change_ids() -> None:
    tokenizer = trained()
    naive = tokenizer.encode("the o") + tokenizer.encode("ld")
    assert naive != tokenizer.encode("the old")


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_survives_saving(name: str, tmp_path) -> None:
    tokenizer = tokenizer_of(name)
    tokenizer.save(tmp_path)
    again = load(tmp_path, tokenizer.description())
    assert again.encode(SAMPLE) == tokenizer.encode(SAMPLE)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.end_of_text == tokenizer.end_of_text
    np.testing.assert_array_equal(again.token_bytes, tokenizer.token_bytes)


@pytest.mark.parametrize(("name", "dtype"), [("bytes", "uint8"), ("characters", "uint16"), ("gpt2", "uint16")])
def test_tokenizer_ids_take_the_smallest_type(name: str, dtype: str) -> None:
    assert tokenizer_of(name).encode_many(["x"])[0].dtype == dtype


def test_tokenizer_end_of_text_has_no_bytes_and_the_last_id() -> None:
    for tokenizer in (Characters(SAMPLE, True), trained(), gpt2()):
        assert tokenizer.end_of_text == tokenizer.vocab_size - 1
        assert tokenizer.token_bytes[tokenizer.end_of_text] == 0
    assert Bytes(True).end_of_text == 0
    assert Bytes(True).token_bytes.sum() == 255
    assert Characters(SAMPLE, False).end_of_text is None
    assert Characters(SAMPLE, False).vocab_size == Characters(SAMPLE, True).vocab_size - 1


def test_bytes_refuse_a_zero_byte_where_it_ends_documents() -> None:
    with pytest.raises(CorpusError, match="zero byte"):
        Bytes(True).encode("a\0b")


def test_characters_spell_unknown_ones_in_bytes() -> None:
    tokenizer = Characters("ab", False)
    assert tokenizer.encode("aéb") == [256, *"é".encode(), 257]


def test_bpe_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib,sys; from bdh.corpora.tokenizer import BytePairs; t=BytePairs.train([sys.argv[1]], 300);"
        "sys.stdout.write(hashlib.sha256(t._inner.to_str().encode()).hexdigest())"
    )
    here = hashlib.sha256(trained()._inner.to_str().encode()).hexdigest()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", program, SAMPLE], capture_output=True, text=True, env=environment)
        assert done.stdout == here, done.stderr


def test_bpe_stops_where_no_pair_occurs_twice() -> None:
    small = BytePairs.train(["abc"], 1000)
    assert small.vocab_size == 257
    assert small.decode(small.encode("abcé")) == "abcé"


def test_bpe_merges_what_is_frequent() -> None:
    assert trained().vocab_size == 300
    assert len(trained().encode(" the old")) < len(" the old") / 2


def test_gpt2_has_its_known_ids() -> None:
    assert gpt2().encode("Hello world") == [15496, 995]
    assert gpt2().end_of_text == 50256
    assert gpt2().vocab_size == 50257


def test_gpt2_refuses_other_files(tmp_path) -> None:
    vocab, merges = shared("corpora/gpt2/vocab.json"), shared("corpora/gpt2/merges.txt")
    lines = merges.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "merges.txt").write_text("".join(lines[:200]), encoding="utf-8")
    with pytest.raises(CorpusError, match="instead of"):
        BytePairs.gpt2(vocab, tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorpusError, match="no GPT-2 tokenizer"):
        BytePairs.gpt2(tmp_path / "vocab.json", merges)


def test_shakespeare_has_its_known_number_of_gpt2_tokens() -> None:
    text = shared("corpora/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    assert sum(map(len, gpt2().encode_many(list(cut(text))))) == 338_025
