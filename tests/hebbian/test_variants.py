"""Stage B for every variant that carries a state, several documents at once as one by one."""

import numpy as np
import pytest
import torch

from bdh.hebbian.activity import Activity
from bdh.hebbian.evaluation import evaluate
from bdh.hebbian.reader import Reader, weights_sha256
from tests.support.arm_readings import by_hand, hebbian_settings, nats_of
from tests.support.held_out_text import VOCAB, held_out, small_bdh
from tests.support.variants import KINDS, tiny

CARRYING = [name for name in KINDS if tiny(name, vocab_size=VOCAB).carries_state]

WITHOUT_CODES = ("gated_linear",)
"""Variants whose keys have both signs: there is no positive code to make a coactivation state of."""


@pytest.mark.parametrize("variant", CARRYING)
def test_hebbian_every_state_changes_logits_when_carried_and_nothing_else_moves(variant):
    """Also for several documents at once: equal to one document after the other."""
    text = held_out((40, 25, 31), window=8)
    model = tiny(variant, vocab_size=VOCAB).double()
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
    assert {"bdh", "eq8", "hebbian_block", "recurrent", "stabilized", "neuro"} <= set(CARRYING)
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


@pytest.mark.parametrize("variant", CARRYING)
def test_hebbian_every_state_can_be_observed(variant):
    model = tiny(variant, vocab_size=VOCAB)
    found = evaluate(model, held_out((40, 25, 31), window=8), hebbian_settings(bootstrap=20))
    missing = [name for name, arm in found.report["arms"].items() if arm["bits_per_byte"] is None]
    assert missing == (["observe"] if variant in WITHOUT_CODES else [])
    if missing:
        assert found.coactivation is None
        return
    assert found.report["arms"]["observe"]["difference_to_static"] == 0.0
    assert found.coactivation.codes.shape[0] == 12
    assert (found.coactivation.codes >= 0).all()
    assert found.coactivation.codes.any()


@pytest.mark.parametrize(
    ("vocabulary", "work", "window", "stateful", "expected"),
    [(256, 1.0, 512, False, 256), (50257, 1.0, 512, False, 41), (256, 1.3e9, 512, False, 9), (256, 1.0, 512, True, 42)],
)
def test_hebbian_streams_of_a_gpu_are_as_many_as_logits_work_and_states_allow(
    vocabulary, work, window, stateful, expected, monkeypatch
):
    """32 streams of a reservoir left nearly all of a GPU idle; 256 of a model with 50,257 logits would fill it."""
    model = tiny("neuro", vocab_size=VOCAB)
    monkeypatch.setattr(type(model), "flops_per_token", lambda self, window: work)
    monkeypatch.setattr(type(model), "state_bytes", lambda self: 201 * 10**6)
    reader = Reader(model, held_out())
    monkeypatch.setattr(model, "vocab_size", vocabulary)
    monkeypatch.setattr(reader, "device", torch.device("cuda"))
    assert reader.streams_at_once(window, stateful=stateful) == expected
