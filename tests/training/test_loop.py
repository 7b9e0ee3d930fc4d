"""The loop as a whole: it learns, keeps the best weights, stops early, reports, and says what is wrong."""

import math
import os
import re

import pytest
import torch

from bdh.project.processes import Stop
from bdh.training import loop
from bdh.training import report as reports
from bdh.training.checkpoints import copy_of
from bdh.training.display import BarDisplay, Display, duration, make_display
from bdh.training.resume import CheckpointFolder
from bdh.training.state import Training
from tests.support.toys import Toy, corpus, settings


class Quiet(Display):
    """Remembers its lines."""

    def __init__(self, total=0):
        super().__init__("toy", total)
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def train(tmp_path):
    """Run a training to its end and return it; the rows that were recorded are `training.recorded`."""
    text = corpus(tmp_path / "tokens")

    def run(model=None, seed=0, folder="checkpoints", precision=torch.float32, **overrides):
        chosen = settings(**overrides)
        training = Training(model or Toy(), text, chosen, seed=seed, device=torch.device("cpu"), precision=precision)
        training.recorded, training.shown = [], Quiet(training.steps)
        checkpoints = CheckpointFolder("toy-toy-0", "f", tmp_path / folder)
        checkpoints.prepare()
        loop.run(training, checkpoints, Stop(), training.shown, training.recorded.extend)
        return training

    return run


def test_training_learns(train):
    training = train(steps=60, learning_rate=0.05, validate_every=20)
    losses = [row["validation_nats"] for row in training.history]
    assert losses[0] == pytest.approx(math.log(256), rel=0.2)
    assert training.best["nats_per_token"] < 0.6 * losses[0]
    assert training.tokens_seen == 60 * 4 * 16


def test_training_hebbian_rule_learns_without_gradients(train):
    training = train(steps=60, learning_rule="hebbian", validate_every=30)
    assert training.best["nats_per_token"] < training.history[0]["validation_nats"] - 0.05
    assert [row["gradient_norm"] for row in training.history] == [None, None, None]


def test_training_bfloat16_learns(train):
    training = train(steps=40, learning_rate=0.05, precision=torch.bfloat16)
    assert training.best["nats_per_token"] < 0.8 * training.history[0]["validation_nats"]
    assert all(p.dtype == torch.float32 for p in training.model.parameters())


def test_training_history_has_the_agreed_columns(train):
    training = train()
    assert [row["step"] for row in training.history] == [0, 4, 8, 12]
    assert list(training.history[1]) == [
        "step", "train_nats", "validation_nats", "validation_nats_average", "learning_rate", "gradient_norm",
        "gain_0", "density_x_sparse_0", "state_norm_rho", "state_rank_rho",
    ]  # fmt: skip
    assert training.history[0]["train_nats"] is None
    assert training.recorded == training.history


def test_training_train_loss_is_the_mean_since_the_last_row(train):
    seen = []

    class Recording(Toy):
        def forward(self, tokens_BT, targets_BT=None, state=None):
            output = super().forward(tokens_BT, targets_BT, state)
            if self.training:
                seen.append(output.loss.item())
            return output

    training = train(Recording())
    for number, row in enumerate(training.history[1:]):
        assert row["train_nats"] == pytest.approx(sum(seen[4 * number : 4 * number + 4]) / 4)


def test_training_validates_the_last_step_and_keeps_the_best(train):
    training = train(steps=10, learning_rate=3.0, warmup_steps=0, validate_every=4, average_decay=0.0)
    assert [row["step"] for row in training.history] == [0, 4, 8, 10]
    losses = {row["step"]: row["validation_nats"] for row in training.history}
    assert training.best["step"] == min(losses, key=losses.get)
    assert training.validation.score(training.model).nats_per_token == training.best["nats_per_token"]


def test_training_judges_the_average_beside_the_raw_weights(train):
    training = train(steps=40, learning_rate=0.3, final_learning_rate=0.9, average_decay=0.9)
    assert training.best["judged"] == "average"
    row = next(r for r in training.history if r["step"] == training.best["step"])
    assert row["validation_nats_average"] == training.best["nats_per_token"] < row["validation_nats"]
    assert training.validation.score(training.model).nats_per_token == training.best["nats_per_token"]
    without = train(steps=40, learning_rate=0.3, final_learning_rate=0.9, average_decay=0.0, folder="other")
    assert without.best["judged"] == "raw"
    assert without.history[-1]["validation_nats"] == training.history[-1]["validation_nats"]


def test_training_stops_early_after_patience(train):
    """Patience counts steps: as many without a new best as its share of the planned ones, however often it is asked."""
    for every in (2, 4):
        chosen = {"steps": 400, "learning_rate": 8.0, "warmup_steps": 0, "average_decay": 0.0, "validate_every": every}
        training = train(**chosen, patience=0.04, folder=str(every))
        assert training.step < 400
        assert training.step == training.best["step"] + 16


@pytest.mark.parametrize(
    ("best", "step", "stale", "ends"),
    [
        (10, 29, 10, False),
        (10, 30, 10, True),
        (10, 30, 2, False),
        (0, 24, 10, False),
        (0, 25, 10, True),
        (99, 100, 0, True),
    ],
)
def test_training_waits_for_the_warm_up_and_for_three_validations(tmp_path, best, step, stale, ends):
    """Without either a training that has not begun to learn, or a noisy pair of validations, would be its end."""
    chosen = settings(steps=100, warmup_steps=5, patience=0.2)
    training = Training(
        Toy(), corpus(tmp_path / "tokens"), chosen, seed=0, device=torch.device("cpu"), precision=torch.float32
    )
    training.best, training.step, training.stale = {"step": best}, step, stale
    assert training.finished() is ends


def test_training_regime_none_only_validates(train):
    model = Toy()
    before = copy_of(model)
    training = train(model, regime="none")
    assert training.step == training.tokens_seen == 0
    assert [row["step"] for row in training.history] == [0]
    assert training.tokens_per_s is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in copy_of(model).items())


def test_training_is_deterministic_and_depends_on_the_seed(train):
    one, two, other = train(folder="a"), train(folder="b"), train(seed=1, folder="c")
    assert one.history == two.history
    assert all(torch.equal(one.best_weights[name], two.best_weights[name]) for name in one.best_weights)
    assert other.history[1] != one.history[1]


def test_training_calls_after_step_with_every_step(train):
    assert train().model.steps_seen == list(range(1, 13))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_training_stops_on_a_loss_that_is_not_finite(train, tmp_path, bad):
    class Failing(Toy):
        def forward(self, tokens_BT, targets_BT=None, state=None):
            output = super().forward(tokens_BT, targets_BT, state)
            if targets_BT is not None and len(self.steps_seen) == 7:
                output.loss = output.loss * bad
            return output

    diverged = train(Failing(), average_decay=0.0).diverged
    assert (diverged.step, bool(re.match(r"the loss is (nan|inf) \(learning rate ", diverged.reason))) == (8, True)
    assert CheckpointFolder("toy-toy-0", "f", tmp_path / "checkpoints").steps() == [3, 6]
    healed = train(average_decay=0.0)
    assert "going on from the checkpoint of step 6 of 12" in healed.shown.lines[0]
    assert healed.history == train(folder="straight", average_decay=0.0).history


def test_training_never_keeps_weights_that_are_not_finite(train, tmp_path):
    class Poisoned(Toy):
        def after_step(self, step):
            super().after_step(step)
            if step == 6:
                self.gain.data[0] = math.nan

    assert str(train(Poisoned(), validate_every=100).diverged).startswith("diverged at step 6: a weight is not finite")
    assert CheckpointFolder("toy-toy-0", "f", tmp_path / "checkpoints").steps() == [3]


def test_training_infinite_gradient_stops_at_its_step(train):
    class Steep(Toy):
        def forward(self, tokens_BT, targets_BT=None, state=None):
            output = super().forward(tokens_BT, targets_BT, state)
            if targets_BT is not None and len(self.steps_seen) == 4:
                self.gain.register_hook(lambda gradient: gradient * math.inf)
            return output

    assert re.match(r"diverged at step 5: the gradient norm is (nan|inf)", str(train(Steep()).diverged))


def test_training_compile_falls_back_with_a_line(train, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    training = train(compile="on")
    assert training.shown.lines[0] == (
        "torch.compile is not available here (no compiler here); training goes on without it"
    )
    assert training.history == train(folder="eager").history


def test_training_uses_the_compiled_module_and_still_measures_density(train, monkeypatch):
    calls = []

    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args):
            calls.append(1)
            return self.inner(*args)

    monkeypatch.setattr(torch, "compile", Wrapped)
    training = train(compile="on")
    assert len(calls) > 12
    assert training.history == train(folder="eager").history


def test_training_report_repeats_and_holds_no_times(train):
    one, two = train(folder="a"), train(folder="b")
    report = reports.train_report(one, "toy", "toy", 0)
    assert report == reports.train_report(two, "toy", "toy", 0)
    assert report["parameters"] == 256 * 8 * 2 + 8 * 12 + 8
    assert report["parameters_without_embeddings"] == 8 * 12 + 8
    assert report["validation/nats_per_token"] == one.best["nats_per_token"]
    assert report["validation/bits_per_byte"] == pytest.approx(one.best["nats_per_token"] / math.log(2))
    assert report["density/x_sparse"] == report["density/x_sparse/layer0"]
    assert not any("second" in key or "per_s" in key for key in report)
    timing = reports.timing_report(one)
    assert timing["tokens_per_s"] > 0
    assert timing["peak_memory_mib"] > 10
    assert timing["device"] == "cpu"


def test_training_history_file_leaves_missing_numbers_empty(train, tmp_path):
    rows = train(average_decay=0.0).history
    reports.write_history(tmp_path / "history.csv", rows)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0].startswith("step,train_nats,validation_nats,validation_nats_average")
    assert lines[1].startswith(f"0,,{rows[0]['validation_nats']!r},,")
    assert len(lines) == 1 + len(rows)
    reports.draw_history(tmp_path / "curves.png", "toy", rows)
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_display_lines_say_where_training_is(capsys):
    display = Display("toy-toy-0", 100)
    display.advance(1, 5.0)
    display.validated({"step": 20, "train_nats": 2.5, "validation_nats": 2.25, "validation_nats_average": 2.0}, 1234.0)
    line = capsys.readouterr().err
    assert "toy-toy-0: step 20/100, train 2.5000, validation 2.2500 (average 2.0000) nats/token, 1,234 tokens/s" in line
    assert "left" in line
    assert [duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 5 min"]


def test_display_draws_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        display = make_display("toy-toy-0", 10)
        assert isinstance(display, BarDisplay)
        for step in range(1, 6):
            display.advance(step, 2.5)
        display.validated({"step": 5, "train_nats": 2.5, "validation_nats": 2.25}, 10.0)
        display.close()
        monkeypatch.undo()
        text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "5/10" in text
    assert "toy-toy-0: step 5/10, train 2.5000, validation 2.2500 nats/token" in text


def test_display_survives_a_terminal_that_has_gone(tmp_path):
    stream = (tmp_path / "gone").open("w")
    stream.close()
    Display("toy", 1, stream).note("nobody reads this")
