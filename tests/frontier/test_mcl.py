"""MCL: effects equal AUROC, noise and shifted labels give nothing, planted neurons are found, labels are right."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from bdh.frontier import mcl, selectivity
from bdh.frontier.concepts import ConceptSpan, RandomConcepts, call_roles, quoting, spans_of_text
from bdh.frontier.selectivity import Half
from bdh.frontier.survey import Activations
from bdh.frontier.survey import activations as read_activations
from benchmarks.control_concepts import Design, activations, labels, mcl_of
from tests.support.held_out_text import held_out, small_bdh

CALL = """Acme Q1 call
Executives
Ada Bell - Chief Executive
Analysts
Cy Dent - Ridge Capital
Operator
Welcome.
Ada Bell
Revenue was $3.5 million in 2019.
Cy Dent
Thanks.
"""
PLAY = "First Citizen:\nSpeak, speak.\n\nKING HENRY:\nNo more.\n[Exit a servant]\n"


def half_of(concepts, frequency, cluster):
    return Half(concepts, frequency, np.repeat(cluster[:, None], concepts.shape[1], axis=1))


def test_mcl_effects_equal_auroc_within_frequency_classes():
    generator = np.random.default_rng(0)
    concepts = generator.random((400, 2)) < 0.3
    frequency, cluster = generator.integers(0, 3, 400), np.arange(400) // 20
    values = np.round(generator.normal(size=(400, 5)) + concepts[:, :1], 1)
    half = half_of(concepts, frequency, cluster)
    r, _ = selectivity.effects(selectivity.ridits(values, frequency), half)
    for concept in range(2):
        for neuron in range(5):
            parts, sizes = [], []
            for one in range(3):
                where = frequency == one
                inside = concepts[where, concept]
                parts.append(roc_auc_score(inside, values[where, neuron].astype(np.float16)))
                sizes.append(inside.sum())
            assert r[concept, neuron] == pytest.approx(2 * np.average(parts, weights=sizes) - 1, abs=1e-5)


def test_mcl_standard_errors_follow_clusters():
    generator, rejected, naive = np.random.default_rng(0), 0, 0
    for _ in range(40):
        cluster = np.repeat(np.arange(24), 25)
        inside = np.repeat(generator.permutation(24) % 2 == 0, 25)
        drift = generator.normal(size=(24, 20))[cluster] + 0.5 * generator.normal(size=(600, 20))
        half = half_of(inside[:, None], np.zeros(600, dtype=int), cluster)
        ranks = selectivity.ridits(drift, half.frequency)
        rejected += (selectivity.effects(ranks, half)[1] < 0.05).sum()
        alone = half_of(inside[:, None], half.frequency, np.arange(600))
        naive += (selectivity.effects(ranks, alone)[1] < 0.05).sum()
    assert rejected / 800 < 0.08
    assert naive / 800 > 0.2


RUNS = Design(sets=False, concepts=2, documents=24)


def test_mcl_counts_planted_neurons_and_names_their_concepts():
    row = mcl_of(0, planted=0.25, design=RUNS)
    assert row["verdict"] == "above its null"
    assert row["value"] == pytest.approx(0.25, abs=0.04)
    assert row["concepts"]["concept 0"]["neurons"] == pytest.approx(8, abs=2)
    assert 0.6 < row["concepts"]["concept 0"]["best_auroc"] <= 1.0
    assert row["reference_protocol"] > 3
    assert row["p"] < 1e-4, "beyond all draws p goes on falling"


def test_mcl_quotes_where_the_best_neuron_of_a_concept_fires():
    labelled = labels(0, RUNS)
    own = activations(0, labelled, planted=0.25)
    found = mcl.measure(own, [], labelled, quote=str)[0]["concepts"]
    quoted = [int(place) for place in found["concept 0"]["contexts"]]
    assert len(quoted) == len({int(labelled.window[place]) for place in quoted}) == mcl.CONTEXTS
    assert labelled.concepts[quoted, 0].all()
    assert "contexts" not in mcl.measure(own, [], labelled)[0]["concepts"]["concept 0"]


def test_mcl_contexts_stay_in_their_window_and_are_of_licensed_texts_only():
    ids = np.frombuffer(b"the first window of the text; the second one, which is no part of it", dtype=np.uint8).astype(
        np.int64
    )
    windows = SimpleNamespace(inputs=ids, bounds=np.array([0, 30, ids.size]))
    passages = SimpleNamespace(text=windows)
    corpus = SimpleNamespace(
        stats={"provenance": [{"licence": "MIT"}]},
        token_bytes=np.ones(256, dtype=np.int64),
        decode=lambda tokens: bytes(tokens).decode(),
    )
    quote = quoting(corpus, passages)
    assert quote(4) == "the «f»irst window of"
    assert quote(27) == "the first window of the tex«t»; "
    assert quote(34) == "the «s»econd one, whi"
    for files in ([{"licence": "not established; for measuring only"}], [{}], []):
        assert quoting(SimpleNamespace(stats={"provenance": files}, token_bytes=corpus.token_bytes), passages) is None


def test_mcl_a_neuron_for_two_concepts_is_not_one_for_one():
    labelled = labels(0, RUNS)
    values = activations(0, labelled).values
    both = labelled.concepts[:, :2].any(1) & (np.random.default_rng(0).random(labelled.document.size) < 0.6)
    values[:, both] += 3.0
    row, _ = mcl.measure(Activations("xy_sparse", values), [], labelled)
    assert row["selective_for_any"] > 0.8
    assert row["value"] < 0.2


def test_mcl_neurons_tuned_to_words_are_no_neurons_of_concepts():
    """Three random tokens of every neuron make it selective for sets of tokens, meant or not."""
    row = mcl_of(0, design=Design(), twins=False, tuned=3)
    assert row["value"] > 0.02
    assert row["verdict"] == "not distinguishable from its null"
    assert row["nulls"][mcl.SETS]["mean"] > 0.02


def test_mcl_random_concepts_are_as_large_and_as_lexical_as_the_real_ones():
    """Catches a null that is easier than the question: sets that fall apart into tokens, or that cover less."""
    sets, runs = labels(0, Design()), labels(0, RUNS)
    for seed in range(5):
        for labelled in (sets, runs):
            source = RandomConcepts(labelled)
            for found in (source.alike(np.random.default_rng(seed)), source.sets(np.random.default_rng(seed))):
                ratio = found.mean(0) / labelled.concepts.mean(0)
                assert (np.abs(np.log(ratio[:-1])) < 0.25).all()
        alike = RandomConcepts(sets).alike(np.random.default_rng(seed))
        inside = np.array([alike[sets.token == kind, 0].mean() for kind in np.unique(sets.token)])
        assert ((inside < 0.1) | (inside > 0.9)).mean() > 0.85, "a set of tokens stays one"
        alike = RandomConcepts(runs).alike(np.random.default_rng(seed))
        starts = [int((np.diff(one.astype(int)) == 1).sum()) for one in (runs.concepts[:, 0], alike[:, 0])]
        assert starts[1] < 1.6 * starts[0], "runs stay runs"
        shares = np.bincount(runs.document, weights=alike[:, -1]) / np.bincount(runs.document)
        assert set(shares.tolist()) <= {0.0, 1.0}
        assert (alike[:, 0] != runs.concepts[:, 0]).mean() > 0.1


def test_mcl_share_that_twins_have_as_well_is_not_distinguishable():
    labelled = labels(1, RUNS)
    own, *twins = (activations(seed, labelled, planted=0.25) for seed in range(4))
    row, _ = mcl.measure(own, [mcl.numbers(twin, labelled) for twin in twins], labelled)
    assert row["p"] < 0.05
    assert row["verdict"] == "not distinguishable from its null"


@pytest.mark.parametrize(
    ("own", "labelled", "reason"),
    [
        (None, labels(0), "taps no activations"),
        (activations(0, labels(0)), None, "nothing in this text"),
        (activations(0, labels(0, Design(documents=2))), labels(0, Design(documents=2)), "at least 512"),
        (
            activations(0, labels(0, Design(documents=4, windows=3))),
            labels(0, Design(documents=4, windows=3)),
            "occur in both halves",
        ),
        (Activations("x", np.zeros((9, 3072))), labels(0), "0 active neurons"),
    ],
    ids=["no tap", "no labels", "short", "rare", "silent"],
)
def test_mcl_is_null_with_a_reason(own, labelled, reason):
    if reason.startswith("occur"):
        labelled = dataclasses.replace(labelled, window=labelled.document)
    row, curve = mcl.measure(own, [], labelled)
    assert row["verdict"] == "not measurable"
    assert reason in row["reason"]
    assert curve == []


def test_mcl_reads_the_innermost_code_of_every_layer():
    model, held = small_bdh(), held_out(lengths=(70, 33, 50))
    found = read_activations(model, held, "cpu", False)
    assert found.tap == "xy_sparse"
    assert found.values.shape == (2 * 2 * 32, held.scored)
    assert (found.values >= 0).all()
    assert 0.01 < (found.values > 0).mean() < 0.9


def test_mcl_wilson_interval_of_nothing_and_of_half():
    assert mcl.wilson(0, 0) == (0.0, 1.0)
    low, high = mcl.wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert mcl.wilson(0, 20)[0] == 0.0
    for hits, trials in ((1, 7), (50, 100), (512, 512)):
        expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
        assert mcl.wilson(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_concepts_of_a_call_are_figures_and_turns_by_role():
    found = {(span.concept, CALL[span.start : span.end]) for span in spans_of_text(CALL)}
    assert ("currency", "$3.5 million") in found
    assert ("number", "3.5") in found
    assert ("year term", "2019") in found
    assert ("role: operator", "Welcome.\n") in found
    assert ("role: executive", "Revenue was $3.5 million in 2019.\n") in found
    assert ("role: analyst", "Thanks.\n") in found


def test_concepts_of_a_play_are_names_classes_and_directions():
    found = {(span.concept, PLAY[span.start : span.end]) for span in spans_of_text(PLAY)}
    assert ("speaker name", "First Citizen") in found
    assert ("class: commoner", "Speak, speak.\n\n") in found
    assert ("class: noble", "No more.\n[Exit a servant]\n") in found
    assert ("stage direction", "[Exit a servant]") in found


def test_concepts_plain_prose_has_no_roles():
    assert list(call_roles("He said:\nOperator\nhello\n")) == []
    assert ConceptSpan("number", 4, 6) in set(spans_of_text("the 12 men"))
