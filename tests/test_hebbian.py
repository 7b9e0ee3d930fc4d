"""Stage B: what carrying changes, what observing must not change, and that the numbers add up."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from bdh.errors import RunError
from bdh.models.base import build, damp_state, variant_module
from bdh.models.catalog import known_variants
from bdh.plasticity.activity import Activity
from bdh.plasticity.arms import ARMS, reach
from bdh.plasticity.evaluation import Rules, evaluate
from bdh.plasticity.living import donors_of
from bdh.plasticity.reader import Reader, weights_sha256
from bdh.plasticity.results import NUMBERS, SCORES
from bdh.plasticity.state import StateWatch, effective_rank
from bdh.plasticity.strata import KINDS
from tests.held_out_text import VOCAB, held_out, small_bdh

RULES = Rules(damping=0.97, eta=0.005, snapshot_every=20, resamplings=200)


def nats_of(arm, model, text, damping=0.97, activity=None):
    reader = Reader(model, text, activity=activity)
    ARMS[arm].read(reader, damping)
    return reader.nats


def by_hand(model, text, arm, damping=0.97):
    """Surprisal of every scored token, one window of one stream at a time."""
    model.eval()
    nats, state = [], None
    for window in range(text.windows):
        inputs, targets = (
            torch.from_numpy(part[text.bounds[window] : text.bounds[window + 1]])[None]
            for part in (text.inputs, text.targets)
        )
        fresh = arm == "static" or window == 0 or text.document[window] != text.document[window - 1]
        if arm == "carry_corpus":
            fresh = window == 0
        state = model.initial_state(1) if fresh else damp_state(state, damping ** text.lengths[window - 1])
        with torch.no_grad():
            output = model(inputs, state=None if arm == "static" else state)
        state = output.state
        nats.append(torch.nn.functional.cross_entropy(output.logits[0], targets[0], reduction="none"))
    return torch.cat(nats).double().numpy()


@pytest.mark.parametrize("arm", ["static", "carry", "carry_corpus"])
def test_hebbian_arm_equals_one_window_at_a_time(arm, monkeypatch):
    monkeypatch.setattr("bdh.plasticity.reader.MOST_TOKENS", 48)
    model, text = small_bdh().double(), held_out()
    np.testing.assert_allclose(nats_of(arm, model, text), by_hand(model, text, arm), rtol=1e-6, atol=1e-7)


def test_hebbian_carry_changes_predictions_only_after_the_first_window_of_a_document():
    model, text = small_bdh().double(), held_out()
    static, carry = nats_of("static", model, text), nats_of("carry", model, text)
    later = text.position > text.window
    assert np.abs(carry - static)[later].max() > 1e-3
    np.testing.assert_allclose(carry[~later], static[~later], rtol=0, atol=1e-9)


def test_hebbian_observe_is_bit_equal_to_static():
    model, text = small_bdh(), held_out()
    activity = Activity(text, per_token=True, codes=text.windows)
    assert np.array_equal(nats_of("static", model, text), nats_of("observe", model, text, activity=activity))
    assert activity.codes() is not None


def test_hebbian_without_damping_carry_equals_reading_the_document_at_once():
    model, text = small_bdh().double(), held_out(lengths=(60,), window=16)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(text.inputs)[None]).logits[0]
    whole = torch.nn.functional.cross_entropy(logits, torch.from_numpy(text.targets), reduction="none")
    np.testing.assert_allclose(nats_of("carry", model, text, damping=1.0), whole.numpy(), rtol=1e-6)
    np.testing.assert_allclose(nats_of("longer_context", model, text, damping=1.0), whole.numpy(), rtol=1e-6)


def test_hebbian_damping_to_nothing_leaves_only_the_positions():
    model, text = small_bdh().double(), held_out()
    nothing = nats_of("carry", model, text, damping=1e-30)
    np.testing.assert_allclose(nothing, nats_of("static", model, text), rtol=1e-5, atol=1e-6)


def test_hebbian_donors_are_neighbours_and_never_oneself():
    assert [donors_of(count) for count in (2, 3, 4, 5)] == [[1, 0], [1, 2, 0], [1, 0, 3, 2], [1, 0, 3, 4, 2]]


def test_hebbian_shuffled_state_is_another_documents_state():
    model, text = small_bdh().double(), held_out(lengths=(40, 40), window=16)
    shuffled = nats_of("shuffled", model, text)
    swapped = []
    for own, donor in ((0, 1), (1, 0)):
        windows = np.flatnonzero(text.document == own)
        others = np.flatnonzero(text.document == donor)
        state = donors = model.initial_state(1)
        for window, other in zip(windows, others, strict=True):
            span = slice(text.bounds[window], text.bounds[window + 1])
            with torch.no_grad():
                logits = model(torch.from_numpy(text.inputs[span])[None], state=state).logits[0]
                targets = torch.from_numpy(text.targets[span])
                swapped.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").numpy())
                theirs = torch.from_numpy(text.inputs[text.bounds[other] : text.bounds[other + 1]])[None]
                state = donors = damp_state(model(theirs, state=donors).state, 0.97**16)
    np.testing.assert_allclose(shuffled, np.concatenate(swapped), rtol=1e-6, atol=1e-7)
    assert np.abs(shuffled - nats_of("carry", model, text)).max() > 1e-3


def test_hebbian_streams_do_not_mix():
    model, text = small_bdh().double(), held_out()
    other = copy.deepcopy(text)
    changed = text.token_document == 1
    other.inputs[changed] = (other.inputs[changed] + 7) % VOCAB
    for arm in ("static", "carry"):
        a, b = nats_of(arm, model, text), nats_of(arm, model, other)
        np.testing.assert_allclose(a[~changed], b[~changed], rtol=1e-9)
        assert np.abs(a[changed] - b[changed]).max() > 1e-3


LENGTHS = (70, 33, 9, 50, 41, 26, 18, 60, 30)


def spoken(text):
    """The text with two speakers who take turns of five tokens, and nobody in the first three tokens of a document."""
    role = np.where(text.position < 4, -1, text.position // 5 % 2)
    return dataclasses.replace(text, roles=("analyst", "executive"), role=role)


def test_hebbian_report_adds_up():
    text = spoken(held_out(LENGTHS))
    found = evaluate(small_bdh(), text, RULES)
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
        for strata in (arm["by_position"], arm["by_year"].values()):
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


def test_hebbian_strata_of_few_documents_are_not_measurable():
    report = evaluate(small_bdh(), held_out(LENGTHS), RULES).report
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
    report = evaluate(small_bdh(), held_out((30,)), RULES).report
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
    rules = dataclasses.replace(RULES, sweep=(0.5, 0.97, 1.0))
    report = evaluate(model, text, rules).report
    rows = report["damping_sweep"]["rows"]
    assert [row["damping"] for row in rows] == [0.5, 0.97, 1.0]
    assert [row["half_life_tokens"] for row in rows] == [1.0, pytest.approx(22.76, rel=1e-3), None]
    assert {name: rows[1][name] for name in SCORES} == {name: report["arms"]["carry"][name] for name in SCORES}
    for row in rows:
        alone = nats_of("carry", model, text, row["damping"])
        assert row["nats_per_token"] == pytest.approx(alone.mean(), rel=1e-5)
    assert rows[0]["norm"] < rows[2]["norm"]
    control = evaluate(build("transformer", vocab_size=VOCAB, seed=0), text, rules).report["damping_sweep"]
    assert control["rows"] == []
    assert "no state of constant size" in control["reason"]


CARRYING = [name for name in known_variants() if variant_module(name).Model.carries_state]


@pytest.mark.parametrize("variant", CARRYING)
def test_hebbian_every_state_changes_logits_when_carried_and_nothing_else_moves(variant):
    """Also for several documents at once: equal to one document after the other."""
    text = held_out((40, 25, 31), window=8)
    model = build(variant, vocab_size=VOCAB, seed=0, **variant_module(variant).TINY).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    before = weights_sha256(model)
    static, carry = nats_of("static", model, text), nats_of("carry", model, text)
    later = text.position > text.window
    assert np.abs(carry - static)[later].max() > 1e-6
    assert np.array_equal(nats_of("observe", model, text, activity=Activity(text)), static)
    for arm in ("carry", "shuffled", "longer_context"):
        together = nats_of(arm, model, text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reader, "streams_at_once", lambda self, tokens, stateful=False: 1)
            np.testing.assert_allclose(nats_of(arm, model, text), together, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(carry, by_hand(model, text, "carry"), rtol=1e-9, atol=1e-12)
    assert weights_sha256(model) == before


def test_hebbian_carriers_are_the_families_with_a_synaptic_state():
    assert {"bdh", "bdh_structured", "eq8", "hebbian_block", "recurrent", "stabilized", "neuro"} <= set(CARRYING)
    assert {"recurrent_trained", "neuro_trained"} <= set(CARRYING)
    assert not [name for name in CARRYING if name.startswith(("slim", "transformer"))]


def test_hebbian_memory_of_a_call_does_not_grow_with_the_text():
    model, sizes = small_bdh(), {}
    forward = model.forward
    for length in (40, 400):
        text, seen = held_out((length, length // 2)), []

        def listen(tokens, targets=None, state=None, seen=seen):
            seen.append((tokens.numel(), sum(t.numel() for t in (state or {}).values())))
            return forward(tokens, targets, state)

        model.forward = listen
        for arm in ("carry", "shuffled", "carry_corpus"):
            nats_of(arm, model, text)
        sizes[length] = (max(size for size, _ in seen), max(size for _, size in seen))
    assert sizes[40] == sizes[400]


def test_hebbian_density_and_codes_equal_plain_activations():
    model, text = small_bdh(), held_out(lengths=(40, 21), window=16)
    activity = Activity(text, per_token=True, codes=3)
    nats_of("observe", model, text, activity=activity)
    seen = {}
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("bdh.models.bdh.tap", lambda name, layer, x: seen.setdefault((name, layer), []).append(x[0]))
        for window in range(text.windows):
            model(torch.from_numpy(text.inputs[text.bounds[window] : text.bounds[window + 1]])[None])
    for (name, layer), pieces in seen.items():
        x_HTN = torch.cat(pieces, 1)
        assert activity.density()[name]["layers"][layer] == pytest.approx(float((x_HTN != 0).double().mean()))
        dead = float((x_HTN == 0).all(1).double().mean())
        assert activity.never_active()[name]["layers"][layer] == pytest.approx(dead)
        expected = (x_HTN != 0).double().mean((0, 2)).numpy()
        np.testing.assert_allclose(activity.token_density(name)[layer], expected, rtol=1e-6)
    codes = np.stack([[seen["x_sparse", layer][w].mean(1).numpy() for layer in range(2)] for w in range(3)])
    np.testing.assert_allclose(activity.codes(), codes, rtol=1e-5, atol=1e-7)


def test_hebbian_arm_that_a_model_cannot_run_is_null_with_a_reason():
    text = held_out()
    report = evaluate(build("transformer", vocab_size=VOCAB, seed=0), text, RULES).report
    for arm in ("carry", "carry_corpus", "shuffled", "observe"):
        assert report["arms"][arm]["reason"]
        assert all(report["arms"][arm][number] is None for number in NUMBERS)
    assert report["arms"]["static"]["bits_per_byte"] > 0
    assert set(NUMBERS) == {*SCORES, *KINDS}
    assert report["coactivation"] is None
    assert report["state"]["norm"] is report["state"]["half_life_tokens"] is None


def test_hebbian_changed_weights_stop_the_stage(monkeypatch):
    model = small_bdh()
    forward = model.forward

    def learning(*args, **kwargs):
        model.decoder.data[0, 0] += 1e-3
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", learning)
    with pytest.raises(RunError, match="changed the weights"):
        evaluate(model, held_out(), RULES)


def test_hebbian_observing_that_interferes_stops_the_stage(monkeypatch):
    def meddle(self, name, layer, tensor):
        tensor.mul_(0.5)

    monkeypatch.setattr(Activity, "__call__", meddle)
    with pytest.raises(RunError, match="changed a prediction"):
        evaluate(small_bdh(), held_out(), RULES)


def test_hebbian_weights_hash_sees_one_bit():
    model = small_bdh()
    before = weights_sha256(model)
    model.encoder.data.view(-1)[3] = torch.nextafter(model.encoder.data.view(-1)[3], torch.tensor(1.0))
    assert weights_sha256(model) != before


def test_hebbian_unusable_predictions_and_windows_are_refused():
    model = small_bdh()
    model.lm_head.data[0, 0] = float("nan")
    with pytest.raises(RunError, match="not finite"):
        evaluate(model, held_out(), RULES)
    transformer = build("transformer", vocab_size=VOCAB, seed=0)
    text = held_out(lengths=(2 * transformer.max_positions(),), window=transformer.max_positions() + 1)
    with pytest.raises(RunError, match="reads at most"):
        evaluate(transformer, text, RULES)


@pytest.mark.parametrize("damping", [0.9, 0.99])
@pytest.mark.parametrize("shape", [(1, 2, 3, 10, 6), (1, 8, 30)], ids=["heads", "one matrix"])
def test_hebbian_half_life_of_a_planted_process_is_found(damping, shape):
    generator = torch.Generator().manual_seed(0)
    watch, window = StateWatch({2999}), 8
    rho = torch.zeros(shape)
    for step in range(3000):
        watch.take([step], {"rho": rho, "position": torch.tensor([step])})
        rho = rho * damping**window + torch.randn(rho.shape, generator=generator)
    report = watch.report(np.zeros(3000, dtype=int), window, damping)
    assert report["half_life_tokens"] == pytest.approx(math.log(2) / -math.log(damping))
    assert report["half_life_measured_tokens"] == pytest.approx(report["half_life_tokens"], rel=0.15)
    assert report["autocorrelation_pairs"] == 2999


def test_hebbian_half_life_of_a_forgotten_state_is_not_measurable():
    generator = torch.Generator().manual_seed(0)
    watch = StateWatch(set())
    for step in range(2000):
        watch.take([step], {"rho": torch.randn(1, 2, 3, 10, 6, generator=generator)})
    report = watch.report(np.zeros(2000, dtype=int), 8, 0.5)
    assert abs(report["autocorrelation_one_window"]) < 0.02


def test_hebbian_effective_rank_counts_equal_directions():
    assert effective_rank(torch.eye(7)[None]) == pytest.approx(7)
    assert effective_rank(torch.ones(5, 9)[None]) == pytest.approx(1)
    assert effective_rank(torch.zeros(5, 9)[None]) == pytest.approx(1)


def test_hebbian_reach_is_whole_windows_and_bounded():
    assert reach(0.99, 128) == 512
    assert reach(1.0, 128) == 16 * 128
    assert reach(0.5, 128) == 128
