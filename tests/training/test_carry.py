"""Training with a carried state against a loop that reads stream by stream and token by token."""

import copy

import numpy as np
import pytest
import torch
import torch._dynamo.testing

from bdh.params import load
from bdh.project.errors import ParamsError
from bdh.training.optimizer import learning_rate, make_optimizer
from bdh.training.run import check_carry, describe
from bdh.training.state import Training
from bdh.training.update import TrainingPass
from tests.support.stage_project import make_project
from tests.support.toys import corpus, settings
from tests.support.variants import KINDS, tiny

CPU = torch.device("cpu")
QUIET = {"spike_rate": 0.0}
STATEFUL = [name for name in KINDS if tiny(name, vocab_size=256).carries_state and tiny(name, vocab_size=256).trains]
CHOSEN = {"carry": True, "carry_damping": 0.9, "carry_windows": 3, "window": 7, "batch_size": 4, "gradient_clip": 1e6}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus") / "tokens")


def training_of(text, variant, **overrides):
    """A carried training in float64 over segments in which streams come to an end."""
    quiet = QUIET if variant.startswith("neuro") else {}
    model = tiny(variant, vocab_size=256, seed=3, **quiet).double()
    chosen = settings(**{**CHOSEN, "steps": 8} | overrides)
    training = Training(model, text, chosen, seed=2, device=CPU, precision=torch.float32)
    training.segments = np.array([[0, 30], [30, 47], [60, 200]])
    return training


class SlowLoop:
    """Every stream alone, a token at a time, the state cut from its past and damped at the border of a window."""

    def __init__(self, training):
        self.model, self.settings = copy.deepcopy(training.model), training.settings
        names = {name for name, _ in training.update.named}
        self.named = [(name, p) for name, p in self.model.named_parameters() if name in names]
        self.optimizer = make_optimizer(self.named, self.settings, CPU)
        self.states = [None] * self.settings.batch_size

    def step(self, step, tokens_BT, targets_BT, starts_B):
        self.optimizer.zero_grad()
        losses = []
        for stream, (tokens_T, targets_T) in enumerate(zip(tokens_BT, targets_BT, strict=True)):
            if starts_B[stream]:
                self.states[stream] = self.model.initial_state(1)
            state = self.states[stream]
            for token, target in zip(tokens_T, targets_T, strict=True):
                output = self.model(token.view(1, 1), target.view(1, 1), state)
                losses.append(output.loss)
                state = output.state
            damped = self.settings.carry_damping ** len(tokens_T)
            self.states[stream] = {
                name: tensor.detach() * (damped if name in ("rho", "sigma") else 1) for name, tensor in state.items()
            }
        loss = torch.stack(losses).mean()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        self.optimizer.step()
        return loss.detach()


@pytest.mark.parametrize("variant", STATEFUL)
def test_carried_training_is_the_slow_loop(text, variant):
    """Values, states and gradients of 6 steps; a stream that ends anywhere but in the loop, a gradient or a factor
    that crosses a border, or a state that goes to another stream would be found."""
    training = training_of(text, variant, accumulate=2)
    slow = SlowLoop(training)
    moved, reads = 0, 0
    for step in range(1, 7):
        batch = training.batch(step)
        moved += int(batch[2].sum())
        loss, norm = training.update.apply(step, *batch)
        expected = slow.step(step, *batch)
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
        for (name, own), (_, other) in zip(training.update.named, slow.named, strict=True):
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-6, atol=1e-9, msg=name)
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-8, msg=name)
        for name, tensor in training.update.carried.tensors.items():
            together = torch.cat([state[name] for state in slow.states])
            torch.testing.assert_close(tensor, together, rtol=1e-6, atol=1e-9, msg=name)
        reads += norm > 0
    assert 8 < moved < 20
    assert reads == 6


def test_carried_training_without_its_state_is_another(text):
    """The comparison with the loop can fail: a state that is never handed on gives other weights."""
    one, other = training_of(text, "bdh"), training_of(text, "bdh")
    for training, forgets in ((one, False), (other, True)):
        for step in range(1, 6):
            tokens, targets, starts = training.batch(step)
            training.update.apply(step, tokens, targets, torch.ones_like(starts) if forgets else starts)
    assert not torch.allclose(one.model.encoder, other.model.encoder, rtol=1e-6)


def test_carry_turned_off_reads_random_windows_and_holds_no_state(text):
    training = training_of(text, "bdh", carry=False)
    assert len(training.batch(1)) == 2
    assert training.update.carried is None
    assert "state/rho" not in training.snapshot().tensors


def test_carried_training_pass_compiles(text):
    """torch.compile gets the state as an argument; another graph per window would be seen as a recompilation."""
    training = training_of(text, "gated_linear")
    torch._dynamo.reset()
    frames = torch._dynamo.testing.CompileCounter()
    compiled, plain = torch.compile(TrainingPass(training.model), backend=frames), TrainingPass(training.model)
    for step in (1, 2, 3):
        tokens, targets, starts = training.batch(step)
        training.update.carried.start_anew(starts)
        state = training.update.carried.parts(1)[0]
        found, expected = compiled(tokens, targets, state), plain(tokens, targets, state)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=1e-11)
        training.update.carried.keep(state, found.state)
    assert frames.frame_count == 1


@pytest.mark.parametrize(
    ("variant", "overrides", "line"),
    [
        ("transformer_modern", {}, r"train\.carry: transformer_modern \(architecture transformer\) has no state"),
        ("slim_backprop", {}, r"train\.carry: slim_backprop \(architecture slim\) has no state"),
        ("bdh", {"learning_rule": "hybrid"}, r"train\.carry: bdh learns by hybrid"),
    ],
)
def test_carry_is_refused_in_one_line_that_names_the_variant(tmp_path, monkeypatch, variant, overrides, line):
    monkeypatch.chdir(make_project(tmp_path, carry=True, **overrides))
    with pytest.raises(ParamsError, match=line) as caught:
        describe(load(), variant, "sample_plays", 0)
    assert "\n" not in str(caught.value)
    check_carry(settings(**overrides), variant, load().architecture_of(variant))


def test_carry_leaves_the_fingerprint_alone_where_it_is_off(tmp_path, monkeypatch):
    """A training without a carried state goes on from its checkpoints whatever the keys of carrying say."""

    def place(**overrides):
        monkeypatch.chdir(make_project(tmp_path, **overrides))
        return describe(load(), "bdh", "sample_plays", 0).checkpoints().path.name

    assert place() == place(carry_damping=0.5, carry_windows=9)
    assert len({place(), place(carry=True), place(carry=True, carry_damping=0.5)}) == 3
