"""Floors from counting: equal to slow definitions, proper distributions, right where the answer is known."""

import itertools
import math
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from bdh.corpora.ngram import MODELS, floors, ngram_scores, place_in_window, score
from bdh.corpora.sample.plays import write_play
from bdh.hebbian.held_out import cut
from bdh.project.errors import RunError
from tests.support.corpus_cases import build, text_section
from tests.support.shared import shared


def one_document(tokens, window=None):
    """Inputs, targets and reach of a document read in windows (None: in one)."""
    starts = np.arange(0, tokens.size - 1, window or tokens.size)
    return tokens[:-1], tokens[1:], place_in_window(np.append(starts, tokens.size - 1))


def means(train, vocab_size, tokens, orders, window=None):
    scores = score(train, vocab_size, *one_document(tokens, window), orders)
    return {name: nats.mean() for name, nats in scores.items()}


class Slow:
    """The definitions at the head of the module, from dictionaries, one probability at a time."""

    def __init__(self, train, vocab_size, highest):
        self.vocab_size = vocab_size
        self.raw = defaultdict(Counter)
        self.left = defaultdict(Counter)
        before = defaultdict(set)
        for k in range(1, highest + 1):
            for start in range(len(train) - k + 1):
                gram = tuple(train[start : start + k])
                self.raw[gram[:-1]][gram[-1]] += 1
                before[gram[1:]].add(gram[0])
        for gram, tokens in before.items():
            if gram:
                self.left[gram[:-1]][gram[-1]] = len(tokens)
        self.discounts = {
            (name, k): self.discounts_of([n for h, c in table.items() if len(h) == k for n in c.values()])
            for name, table in (("raw", self.raw), ("left", self.left))
            for k in range(highest)
        }

    @staticmethod
    def discounts_of(counts):
        n = Counter(counts)
        if not all(n[i] for i in (1, 2, 3, 4)):
            return 0.5, 1.0, 1.5
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))
        return found if all(0 < d <= i for i, d in enumerate(found, 1)) else (0.5, 1.0, 1.5)

    def witten_bell(self, h, w):
        shorter = self.witten_bell(h[1:], w) if h else 1 / self.vocab_size
        after = self.raw.get(h)
        if not after:
            return shorter
        return (after[w] + len(after) * shorter) / (after.total() + len(after))

    def kneser_ney(self, h, w, name="raw"):
        shorter = self.kneser_ney(h[1:], w, "left") if h else 1 / self.vocab_size
        after = (self.raw if name == "raw" else self.left).get(h)
        if not after:
            return shorter
        discount = (0.0, *self.discounts[name, len(h)])
        taken = sum(discount[min(n, 3)] for n in after.values())
        return (after[w] - discount[min(after[w], 3)] + taken * shorter) / after.total()

    def ppm(self, h, w, excluded=frozenset()):
        after = {v: n for v, n in self.raw.get(h, {}).items() if v not in excluded}
        seen = excluded | after.keys()

        def shorter():
            return self.ppm(h[1:], w, seen) if h else 1 / (self.vocab_size - len(seen))

        if not after:
            return shorter()
        escape = len(after) if len(seen) < self.vocab_size else 0
        whole = 2 * sum(after.values()) - len(after) + escape
        return (2 * after[w] - 1) / whole if w in after else escape / whole * shorter()


@pytest.mark.parametrize("vocab_size", [5, 9])
def test_every_model_and_order_equals_its_slow_definition(vocab_size):
    """Also at the borders of windows, where less may be read than the order asks for."""
    generator = np.random.default_rng(1)
    train = generator.choice(5, 400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    tokens = generator.integers(0, vocab_size, 60)
    scores = score(train, vocab_size, *one_document(tokens, 11), range(1, 6))
    slow = Slow(train.tolist(), vocab_size, 6)
    for (name, order), place in itertools.product(itertools.product(MODELS, range(1, 6)), range(59)):
        reach = min(place % 11 + 1, order - 1)
        context = tuple(tokens[place + 1 - reach : place + 1].tolist())
        expected = getattr(slow, name)(context, int(tokens[place + 1]))
        found = math.exp(-scores[f"{name}_{order}"][place])
        assert found == pytest.approx(expected, rel=1e-9), (name, order, place)


@pytest.mark.parametrize("alphabet", [4, 20])
def test_probabilities_sum_to_one_and_none_is_zero(alphabet):
    """With 4 ids every one follows some context; with 20 some never occurred at all."""
    generator = np.random.default_rng(2)
    train = generator.integers(0, 4, 300)
    for _ in range(20):
        context = generator.integers(0, alphabet, 5)
        inputs = np.tile(context, alphabet)
        targets = np.stack([np.append(context[1:], w) for w in range(alphabet)]).reshape(-1)
        scores = score(train, alphabet, inputs, targets, np.tile(np.arange(1, 6), alphabet))
        for name, nats in scores.items():
            probability = np.exp(-nats[4::5])
            assert (probability > 0).all(), name
            assert probability.sum() == pytest.approx(1.0, abs=1e-12), (name, context)


def test_independent_tokens_leave_every_order_near_their_entropy():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    tokens = np.random.default_rng(3).choice(4, 60_000, p=p)
    entropy = -(p * np.log(p)).sum()
    for name, nats in means(tokens[:50_000], 4, tokens[50_000:], range(1, 7)).items():
        assert entropy - 0.02 < nats < entropy + (0.02 if int(name[-1]) < 5 else 0.1), name


def test_a_cycle_is_known_from_the_second_order_on():
    cycle = np.tile(np.arange(7), 400)
    for name, nats in means(cycle[:2000], 11, cycle[2000:], range(1, 7)).items():
        assert nats == pytest.approx(math.log(7), abs=0.01) if name.endswith("_1") else nats < 0.03, name


def test_third_order_reaches_the_entropy_rate_of_a_chain_of_two_tokens():
    generator = np.random.default_rng(4)
    table = generator.dirichlet(np.full(3, 0.4), (3, 3))
    tokens, uniform = [0, 1], generator.random(40_000)
    for u in uniform:
        tokens.append(min(int((table[tokens[-2], tokens[-1]].cumsum() < u).sum()), 2))
    tokens = np.array(tokens)
    train, test = tokens[:30_000], tokens[30_000:]
    rate = -np.log(table[test[:-2], test[1:-1], test[2:]]).mean()
    found = means(train, 3, test, (2, 3))
    for model in MODELS:
        assert found[f"{model}_3"] == pytest.approx(rate, abs=0.01), model
        assert found[f"{model}_2"] > rate + 0.05, model


def test_floors_of_the_sample_plays_are_those_measured_before():
    """Bits per byte of Witten-Bell on 16,384 targets of held-out plays in windows of 128, measured independently."""
    plays = [np.frombuffer(write_play(f"plays/0/{number}")[0].encode(), np.uint8).astype(int) for number in range(72)]
    plays = [np.append(play, 0) for play in plays]
    sizes = np.cumsum([play.size for play in plays])
    train = np.concatenate(plays[: int(np.searchsorted(sizes, 300_501)) + 1])
    assert train.size == 300_501
    pieces, left = [], 16_384
    for play in plays[-9:]:
        tokens = play[:-1][: left + 1]
        pieces.append(one_document(tokens, 128))
        left -= tokens.size - 1
    inputs, targets, reach = (np.concatenate(part) for part in zip(*pieces, strict=True))
    assert targets.size == 16_384
    found = score(train, 256, inputs, targets, reach)
    for order, bits in {2: 3.278, 3: 2.161, 4: 1.409, 6: 1.013}.items():
        assert found[f"witten_bell_{order}"].mean() / math.log(2) == pytest.approx(bits, abs=0.001), order


def test_floors_of_tiny_shakespeare_are_those_measured_before():
    """Nats per byte of Witten-Bell with five tokens of context on the last tenth, measured independently."""
    path = shared("corpora/tinyshakespeare/input.txt")
    text = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int64)
    test = text[int(text.size * 0.9) :]
    for share, nats in ((0.85, 1.994), (0.9, 1.698)):
        found = means(text[: int(text.size * share)], 256, test, (6,))
        assert found["witten_bell_6"] == pytest.approx(nats, abs=0.001)


def test_scores_belong_to_the_scored_targets_of_held_out_text(tmp_path):
    """In a window only the window is read, in a document the document, and a first window is the same in both."""
    path = tmp_path / "mine.txt"
    path.write_text(
        "\n\n".join(
            f"{n}: {word} and {word} or {word}, then {word} again." for n, word in enumerate(8 * ("cat", "dog", "owl"))
        )
    )
    corpus = build(tmp_path, text_section(path, separator="\n\n"))
    text = cut(corpus, "test", 16, 10_000)
    window, document = (ngram_scores(corpus, text, (1, 4), reach=reach) for reach in ("window", "document"))
    assert window.keys() == {f"{name}_{order}" for name in MODELS for order in (1, 4)}
    inside = place_in_window(text.bounds)
    for name, nats in window.items():
        assert nats.shape == text.targets.shape
        same = inside >= (4 if name.endswith("4") else 0)
        assert np.array_equal(nats[same | (text.position == inside)], document[name][same | (text.position == inside)])
    assert not np.array_equal(window["witten_bell_4"], document["witten_bell_4"])
    train = np.asarray(corpus.tokens("train"), dtype=np.int64)
    assert window["witten_bell_1"] == pytest.approx(
        -np.log(
            (np.bincount(train, minlength=256)[text.targets] + np.unique(train).size / 256)
            / (train.size + np.unique(train).size)
        )
    )
    last = ngram_scores(corpus, text, (2,), most_tokens=50)
    assert np.array_equal(last["ppm_2"], score(train[-50:], 256, text.inputs, text.targets, inside, (2,))["ppm_2"])


def test_floors_choose_their_orders_on_validation_and_count_every_target(tmp_path):
    """Validation follows the chain that trained and wants the fourth order; the test text knows no such thing."""
    generator = np.random.default_rng(5)
    table = generator.integers(0, 4, (4, 4, 4))
    chain = [0, 1, 2]
    while len(chain) < 9000:
        chain.append(int(table[tuple(chain[-3:])]) if generator.random() < 0.9 else int(generator.integers(4)))
    text = ["".join("acgt"[i] for i in chain), "".join("acgt"[i] for i in generator.integers(0, 4, 1000))]
    (tmp_path / "mine.txt").write_text("".join(text))
    split = {"by": "position", "validation_fraction": 0.1, "test_fraction": 0.1}
    corpus = build(tmp_path, text_section(tmp_path / "mine.txt", split=split))
    validation, test = (cut(corpus, name, 32, 600) for name in ("validation", "test"))
    found = floors(corpus, validation, test)
    assert (found["corpus"], found["tokens"], found["bytes"], found["train_tokens"]) == ("mine", 600, 600, 8000)
    assert found["floors"].keys() == {f"{kind}_{order}" for kind in MODELS for order in range(1, 7)}
    assert found["across_windows"].keys() == {f"kneser_ney_{order}" for order in range(1, 7)}
    assert {kind: found["chosen"][kind] for kind in MODELS} == {kind: f"{kind}_4" for kind in MODELS}
    on_test = {name: row["bits_per_byte"] for name, row in found["floors"].items()}
    on_validation = {name: row["validation_bits_per_byte"] for name, row in found["floors"].items()}
    assert on_test["kneser_ney_4"] > on_test["kneser_ney_1"]
    assert found["chosen"]["strongest"] == min(MODELS, key=lambda kind: on_validation[f"{kind}_4"]) + "_4"
    for name, nats in ngram_scores(corpus, test).items():
        assert found["floors"][name]["nats_per_token"] == pytest.approx(nats.mean())
        assert on_test[name] == pytest.approx(nats.sum() / math.log(2) / test.token_bytes.sum())
    whole = ngram_scores(corpus, test, (4,), reach="document")["kneser_ney_4"]
    assert found["across_windows"]["kneser_ney_4"]["nats_per_token"] == pytest.approx(whole.mean())
    assert floors(corpus, validation, test) == found
    assert floors(corpus, validation, test, most_tokens=100)["train_tokens"] == 100


def test_text_shorter_than_the_order_is_counted_as_far_as_it_goes():
    found = score(np.array([1, 2]), 3, *one_document(np.array([1, 2, 0])), range(1, 6))
    assert all(np.isfinite(nats).all() for nats in found.values())
    assert np.array_equal(found["witten_bell_5"], found["witten_bell_2"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": (0, 2)}, "whole numbers from 1 on"),
        ({"orders": ()}, "whole numbers from 1 on"),
        ({"reach": "corpus"}, "allowed: document, window"),
        ({"most_tokens": 0}, "nothing to count"),
    ],
)
def test_wrong_requests_are_one_line(change, message):
    corpus = SimpleNamespace(vocab_size=4, tokens=lambda split: np.arange(4, dtype=np.uint8))
    text = SimpleNamespace(inputs=np.array([0]), targets=np.array([1]), bounds=np.array([0, 1]), position=np.array([1]))
    with pytest.raises(RunError, match=message):
        ngram_scores(corpus, text, **change)
