"""Stage B: what carrying changes, what observing must not change, and what stops the stage."""

import copy
import math

import numpy as np
import pytest
import torch

from bdh.hebbian.activity import Activity
from bdh.hebbian.arms import ARMS, Arm, Readings, donors_of, reach
from bdh.hebbian.evaluation import evaluate
from bdh.hebbian.reader import Reader, weights_sha256
from bdh.hebbian.scores import KINDS, NUMBERS, SCORES
from bdh.hebbian.state import StateWatch, effective_rank
from bdh.models.base import LanguageModel, Output, build, damp_state
from bdh.project.errors import RunError
from tests.support.arm_readings import by_hand, hebbian_settings, moved_by_hand, nats_of
from tests.support.held_out_text import VOCAB, held_out, small_bdh

SETTINGS = hebbian_settings()


@pytest.mark.parametrize("arm", ["static", "carry", "carry_corpus"])
def test_hebbian_arm_equals_one_window_at_a_time(arm, monkeypatch):
    monkeypatch.setattr("bdh.hebbian.reader.MOST_TOKENS", 48)
    model, text = small_bdh().double(), held_out()
    np.testing.assert_allclose(nats_of(arm, model, text), by_hand(model, text, arm), rtol=1e-6, atol=1e-7)


def test_hebbian_carry_changes_predictions_only_after_the_first_window_of_a_document():
    model, text = small_bdh().double(), held_out()
    static, carry = nats_of("static", model, text), nats_of("carry", model, text)
    later = text.position > text.window
    assert np.abs(carry - static)[later].max() > 1e-3
    np.testing.assert_allclose(carry[~later], static[~later], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("arm", "move"), [("overlap", 8), ("overlap_quarter", 4)])
@pytest.mark.parametrize("build_model", [small_bdh, lambda: build("transformer", vocab_size=VOCAB, seed=0)])
def test_hebbian_overlap_equals_one_window_at_a_time(arm, move, build_model, monkeypatch):
    monkeypatch.setattr("bdh.hebbian.reader.MOST_TOKENS", 48)
    model, text = build_model().double(), held_out()
    found = nats_of(arm, model, text)
    np.testing.assert_allclose(found, moved_by_hand(model, text, move), rtol=1e-6, atol=1e-7)
    first = text.position <= text.window
    np.testing.assert_allclose(found[first], nats_of("static", model, text)[first], rtol=1e-9)
    assert np.abs(found - nats_of("static", model, text))[~first].max() > 1e-3


@pytest.mark.parametrize("lengths", [(70, 33, 9, 50), (17, 18, 16, 40), (24, 25, 29, 20)])
def test_hebbian_arms_of_a_gpu_are_those_of_a_cpu(lengths, monkeypatch):
    """There, spans of two moves are read once, and numbers come home after the last call of an arm."""
    model, text = small_bdh().double(), held_out(lengths)
    for name in ("static", "carry", "carry_corpus", "shuffled", "overlap", "overlap_quarter", "longer_context"):
        expected = nats_of(name, model, text)
        readings, calls = Readings(model, text, [0.97]), []

        def deferring(activity=None, readings=readings, calls=calls):
            reader = Reader(model, text, activity=activity)
            reader.defers = True
            calls.append(reader)
            return reader

        monkeypatch.setattr(readings, "reader", deferring)
        readings.together = True
        np.testing.assert_allclose(ARMS[name].read(readings), expected, rtol=1e-9, atol=1e-12)
    first = Readings(model, text, [0.97])
    first.together = True
    assert sum(len(set(moved)) for moved in spans_read(first, monkeypatch)) == len(
        {span for moved in spans_read(Readings(model, text, [0.97]), monkeypatch) for span in moved}
    )


def spans_read(readings, monkeypatch):
    """Begin and end of every span that the moved arms read, by call."""
    seen, read_spans = [], Reader.read_spans

    def noting(self, begins, ends, into, *rest, **options):
        seen.append(list(zip(begins, ends, strict=True)))
        return read_spans(self, begins, ends, into, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read_spans", noting)
        _ = readings.moved
    return seen


class Lookup(LanguageModel):
    """Predicts from the `context` last tokens alone; logits are looked up, so equal contexts give equal bits."""

    carries_state = False

    def __init__(self, context):
        super().__init__()
        self.vocab_size, self.context = VOCAB, context
        self.table = torch.nn.Parameter(torch.randn(VOCAB + 1, VOCAB + 1, VOCAB, dtype=torch.float64))

    def forward(self, tokens_BT, targets_BT=None, state=None):
        before_BT = torch.nn.functional.pad(tokens_BT[:, :-1], (1, 0), value=VOCAB)
        nothing_BT = torch.full_like(tokens_BT, VOCAB)
        seen = [nothing_BT, tokens_BT][self.context > 0], [nothing_BT, before_BT][self.context > 1]
        return Output(self.table[seen], None, None, None)

    def initial_state(self, batch_size):
        return {}

    def flops_per_token(self, window):
        return 1.0


@pytest.mark.parametrize("window", [16, 13, 2])
@pytest.mark.parametrize("arm", ["overlap", "overlap_quarter"])
def test_hebbian_overlap_changes_nothing_but_what_a_border_hides(arm, window):
    """The input itself is always there: a model of it alone gains nothing. One of the token before it gains at the
    first input of windows and nowhere else."""
    text = held_out(window=window)
    for context in (0, 1):
        model = Lookup(context)
        assert np.array_equal(nats_of(arm, model, text), nats_of("static", model, text))
    model = Lookup(2)
    differs = nats_of(arm, model, text) != nats_of("static", model, text)
    borders = ((text.position - 1) % window == 0) & (text.position > window)
    assert np.array_equal(differs, borders)


def test_hebbian_overlap_scores_the_same_tokens_in_the_same_units():
    found = evaluate(small_bdh(), held_out((70, 33, 9, 50, 2)), SETTINGS)
    tables = {arm: rows.drop(columns=["arm", "nats"]) for arm, rows in found.units.groupby("arm")}
    for arm in ("overlap", "overlap_quarter"):
        assert tables[arm].to_numpy().tolist() == tables["static"].to_numpy().tolist()
        assert found.report["arms"][arm]["tokens"] == found.report["arms"]["static"]["tokens"]


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
    report = evaluate(build("transformer", vocab_size=VOCAB, seed=0), text, SETTINGS).report
    for arm in ("carry", "carry_corpus", "shuffled", "observe"):
        assert report["arms"][arm]["reason"]
        assert all(report["arms"][arm][number] is None for number in NUMBERS)
    assert report["arms"]["static"]["bits_per_byte"] > 0
    assert set(NUMBERS) == {*SCORES, *KINDS}
    assert report["coactivation"] is None
    assert report["state"]["norm"] is report["state"]["half_life_tokens"] is None


def test_hebbian_new_arm_is_one_function_and_one_entry(monkeypatch):
    def two_tokens(readings):
        reader = readings.reader()
        for begin in range(reader.text.scored):
            reader.read_spans([max(begin - 1, 0)], [begin + 1], [[(reader.nats, begin)]])
        return reader.settle()

    monkeypatch.setitem(ARMS, "pairs", Arm("what does one earlier token help?", two_tokens))
    found = evaluate(small_bdh(), held_out(), SETTINGS)
    assert found.report["arms"]["pairs"]["bits_per_byte"] > 0
    assert found.report["questions"]["pairs"] == "what does one earlier token help?"
    assert {"pairs", "static"} <= set(found.documents["arm"]) & set(found.units["arm"])


def test_hebbian_changed_weights_stop_the_stage(monkeypatch):
    model = small_bdh()
    forward = model.forward

    def learning(*args, **kwargs):
        model.decoder.data[0, 0] += 1e-3
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", learning)
    with pytest.raises(RunError, match="changed the weights"):
        evaluate(model, held_out(), SETTINGS)


def test_hebbian_observing_that_interferes_stops_the_stage(monkeypatch):
    def meddle(self, name, layer, tensor):
        tensor.mul_(0.5)

    monkeypatch.setattr(Activity, "__call__", meddle)
    with pytest.raises(RunError, match="changed a prediction"):
        evaluate(small_bdh(), held_out(), SETTINGS)


def test_hebbian_weights_hash_sees_one_bit():
    model = small_bdh()
    before = weights_sha256(model)
    model.encoder.data.view(-1)[3] = torch.nextafter(model.encoder.data.view(-1)[3], torch.tensor(1.0))
    assert weights_sha256(model) != before


def test_hebbian_unusable_predictions_and_windows_are_refused():
    model = small_bdh()
    model.lm_head.data[0, 0] = float("nan")
    with pytest.raises(RunError, match="not finite"):
        evaluate(model, held_out(), SETTINGS)
    transformer = build("transformer", vocab_size=VOCAB, seed=0)
    text = held_out(lengths=(2 * transformer.max_positions(),), window=transformer.max_positions() + 1)
    with pytest.raises(RunError, match="reads at most"):
        evaluate(transformer, text, SETTINGS)


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
