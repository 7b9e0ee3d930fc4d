"""Several ranks, or several micro-batches, train the model that one process trains on the same batch."""

import math
import signal

import numpy as np
import pytest
import torch

from bdh.models.catalog import settings_of
from bdh.project.errors import ParamsError, TrainingError
from bdh.project.processes import Stop, Stopped
from bdh.training import loop
from bdh.training.checkpoints import tensors_of
from bdh.training.display import SilentDisplay
from bdh.training.distributed.group import ALONE, ElsewhereError, ProcessGroup, check_batch
from bdh.training.resume import CheckpointFolder
from bdh.training.state import Training
from tests.support.ranks import on_ranks
from tests.support.toys import Toy, corpus, settings
from tests.support.variants import KINDS, preset_of, tiny

CPU = torch.device("cpu")
PLAIN = {"block_size": 16, "window": 16, "spike_rate": 0.0}
SLIM = {"prune_every": 4, "prune_threshold": 0.02, "homeostasis_every": 3}
CASES = {
    "bdh": ("bdh", {}, {"l1": 0.1}),
    "bdh readout": ("bdh", {}, {"regime": "readout"}),
    "bdh accumulated": ("bdh", {}, {"accumulate": 2}),
    "structured, three penalties": ("bdh_structured", {}, {"l1": 0.1, "l21": 0.01, "weight_decay": 0.3}),
    "transformer": ("transformer", {}, {}),
    "transformer readout": ("transformer", {}, {"regime": "readout"}),
    "recurrent_trained": ("recurrent_trained", {}, {}),
    "neuro_trained": ("neuro_trained", {}, {}),
    "bdh carried": ("bdh", {}, {"carry": True, "carry_windows": 3}),
    "gated_linear carried, accumulated": ("gated_linear", {}, {"carry": True, "carry_windows": 3, "accumulate": 2}),
    "slim, pruned": ("slim_backprop", SLIM, {}),
    "slim hebbian": ("slim_hebbian", SLIM, {"learning_rule": "hebbian"}),
    "slim hybrid accumulated": ("slim_hybrid", SLIM, {"learning_rule": "hybrid", "accumulate": 2}),
}
TRAINED = [name for name in KINDS if tiny(name, vocab_size=256).trains]


def make(variant, text, group=ALONE, shape=None, model=None, **overrides):
    """A training in float64 with no dropout or spikes: only the order of sums differs between group sizes."""
    chosen = settings(**{"batch_size": 8, "steps": 6, "validate_every": 3, "validation_windows": 6} | overrides)
    if model is None:
        known = settings_of(preset_of(variant)[0])
        sized = {name: value for name, value in PLAIN.items() if name in known}
        model = tiny(variant, vocab_size=256, seed=3, **(sized | (shape or {}))).double()
    return Training(model, text, chosen, seed=1, device=CPU, precision=torch.float32, group=group)


def run(training, folder=None, stop=None):
    """Train to the end without checkpoints, or with them in `folder`."""
    if folder is not None:
        loop.run(training, folder, stop or Stop(), SilentDisplay("toy", training.steps), lambda rows: None)
        return training
    while True:
        if training.validation_due():
            training.validate()
        if training.finished():
            return training
        training.advance()


def weights(training):
    return {name: tensor.numpy().copy() for name, tensor in tensors_of(training.model).items()}


def same(one, two, tolerance=1e-9):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=tolerance, atol=tolerance, err_msg=name)


def same_history(one, two):
    assert len(one) == len(two)
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            expected = other[name] if other[name] is None else pytest.approx(other[name], rel=1e-7, abs=1e-9)
            assert value == expected, (name, row["step"])


def _every_case(group, text):
    found = {}
    for name, (variant, shape, overrides) in CASES.items():
        training = run(make(variant, text, group, shape, **overrides))
        found[name] = weights(training), training.history, training.best, training.tokens_seen
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus") / "tokens")


@pytest.fixture(scope="module")
def two_ranks(text, tmp_path_factory):
    """All cases on two ranks, in one start: what each rank found."""
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), _every_case, text)


@pytest.mark.parametrize("case", CASES)
def test_parallel_two_ranks_equal_one_process(two_ranks, text, case):
    variant, shape, overrides = CASES[case]
    alone = run(make(variant, text, ALONE, shape, **overrides | {"accumulate": 1}))
    first, second = (rank[case] for rank in two_ranks)
    same(first[0], weights(alone))
    same_history(first[1], alone.history)
    assert first[2] == pytest.approx(alone.best)
    assert first[3] == alone.tokens_seen == 6 * 8 * 16
    assert all(np.array_equal(first[0][name], second[0][name]) for name in first[0]), "replicas differ"
    assert first[1] == second[1]
    moved = [not np.array_equal(value, weights(make(variant, text, ALONE, shape))[n]) for n, value in first[0].items()]
    assert any(moved)


def _one_case(group, text):
    training = run(make("bdh", text, group, None, l1=0.1))
    return weights(training), training.history


def test_parallel_eight_ranks_equal_one_process(text, tmp_path):
    alone = run(make("bdh", text, l1=0.1))
    for found, history in on_ranks(8, tmp_path, _one_case, text):
        same(found, weights(alone))
        same_history(history, alone.history)


def test_parallel_equality_can_fail(two_ranks, text):
    other = run(make("bdh", text, batch_size=4, l1=0.1))
    with pytest.raises(AssertionError):
        same(two_ranks[0]["bdh"][0], weights(other))


@pytest.mark.parametrize("variant", TRAINED)
def test_parallel_accumulation_equals_the_whole_batch(text, variant):
    whole = make(variant, text)
    parts = make(variant, text, accumulate=4)
    for training in (whole, parts):
        for _ in range(3):
            training.advance()
    same(weights(parts), weights(whole))
    assert parts.last_loss == pytest.approx(whole.last_loss, rel=1e-9)


def test_parallel_slices_are_the_global_batch(text):
    whole, _ = make("bdh", text).batch(5)
    parts = [make("bdh", text, ProcessGroup(rank, 4)).batch(5)[0] for rank in range(4)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("size", "accumulate", "good"), [(2, 4, True), (3, 1, False), (4, 4, False), (1, 3, False)])
def test_parallel_batch_that_does_not_split_is_refused(size, accumulate, good):
    chosen = settings(batch_size=8, accumulate=accumulate)
    if good:
        check_batch(chosen, size)
        return
    with pytest.raises(ParamsError, match=rf"train.batch_size: 8 .* multiple of {size * accumulate}"):
        check_batch(chosen, size)


def _dropout(group, text):
    training = run(make("", text, group, model=Toy(dropout=0.5), average_decay=0.0))
    return weights(training), torch.rand(4).tolist()


def test_parallel_ranks_drop_other_neurons_and_stay_replicas(text, tmp_path):
    (first, draws), (second, others) = on_ranks(2, tmp_path, _dropout, text)
    assert draws != others
    assert all(np.array_equal(first[name], second[name]) for name in first)


def _until(group, text, folder, last):
    """Train with dropout; leave after `last` steps as a kill would."""
    checkpoints = CheckpointFolder("toy", "f", folder)
    group.lead(checkpoints.prepare)
    training = make("", text, group, model=Toy(dropout=0.5), steps=12, checkpoint_every=2)
    if last is not None:
        advance = training.advance

        def dying():
            if training.step == last:
                raise KeyboardInterrupt
            advance()

        training.advance = dying
    try:
        run(training, checkpoints)
    except KeyboardInterrupt:
        return None
    return weights(training), training.history


def _straight_and_resumed(group, text, folder):
    straight = _until(group, text, folder / "straight", None)
    _until(group, text, folder / "killed", 5)
    return straight, _until(group, text, folder / "killed", None)


def test_parallel_resume_with_as_many_ranks_repeats_the_bits(text, tmp_path):
    for straight, resumed in on_ranks(2, tmp_path, _straight_and_resumed, text, tmp_path):
        assert straight[1] == resumed[1]
        assert all(np.array_equal(straight[0][name], resumed[0][name]) for name in straight[0])


def _resumed(group, text, folder, last, expected_step, variant, overrides):
    checkpoints = CheckpointFolder("toy", "f", folder)
    group.lead(checkpoints.prepare)
    training = make(variant, text, group, steps=8, checkpoint_every=2, validate_every=4, **overrides)
    if last is not None:
        training.steps = last
    loop.resume(training, checkpoints, SilentDisplay("toy", 0))
    assert training.step == expected_step
    run(training, checkpoints)
    if last is not None:
        loop.save(training, checkpoints)
    return weights(training), training.history[-1]["validation_nats"]


@pytest.mark.parametrize("case", [("transformer", {}), ("bdh", {"carry": True, "carry_windows": 6})], ids=str)
@pytest.mark.parametrize("before", [1, 2])
def test_parallel_resume_with_another_number_of_ranks(text, tmp_path, before, case):
    straight = run(make(case[0], text, steps=8, validate_every=4, **case[1]))
    straight.finish()
    folder = tmp_path / "checkpoints"
    for size, last, step in ((before, 4, 0), (3 - before, None, 4)):
        results = (
            [_resumed(ALONE, text, folder, last, step, *case)]
            if size == 1
            else on_ranks(2, tmp_path, _resumed, text, folder, last, step, *case)
        )
    same(results[0][0], weights(straight))
    assert results[0][1] == pytest.approx(straight.history[-1]["validation_nats"], rel=1e-9)


class Poisoned(Toy):
    """Its loss is not a number from the third step on, on one rank alone."""

    rank = 0

    def forward(self, tokens_BT, targets_BT=None, state=None):
        output = super().forward(tokens_BT, targets_BT, state)
        if targets_BT is not None and len(self.steps_seen) == 2 and self.rank == 1:
            output.loss = output.loss * math.nan
        return output


def _ends(group, text, folder):
    """How a training ends on this rank for four reasons."""
    found = {}
    model = Poisoned(dropout=0.0)
    model.rank = group.rank
    checkpoints = CheckpointFolder("toy", "f", folder / "nan")
    group.lead(checkpoints.prepare)
    diverged = run(make("", text, group, model=model, checkpoint_every=1), checkpoints).diverged
    found["nan"] = str(diverged), group.failing

    training = run(make("", text, group, model=Toy(), steps=60, learning_rate=8.0, patience=0.1, validate_every=2))
    found["early"] = training.step

    stop = Stop()
    asked = ProcessGroup(group.rank, group.size, stop)
    checkpoints = CheckpointFolder("toy", "f", folder / "stop")
    asked.lead(checkpoints.prepare)
    training = make("", text, asked, model=Toy(), steps=1000, validate_every=1000)
    advance = training.advance

    def signalled():
        advance()
        if training.step == 5 and asked.rank == 1:
            stop.request(signal.SIGTERM)

    training.advance = signalled
    try:
        run(training, checkpoints, stop)
    except Stopped as stopped:
        found["stop"] = training.step, stopped.signum, checkpoints.steps()

    def full():
        raise TrainingError("the disk is full")

    try:
        asked.lead(full)
    except (TrainingError, ElsewhereError) as error:
        found["lead"] = type(error).__name__, str(error)
    return found


def test_parallel_ranks_end_together(text, tmp_path):
    first, second = on_ranks(2, tmp_path, _ends, text, tmp_path)
    assert first["nan"] == second["nan"]
    assert first["nan"][0].startswith("diverged at step 3: the loss is nan")
    assert not first["nan"][1], "all ranks go on, and the first writes that there is no result"
    assert first["early"] == second["early"] < 60
    assert first["stop"] == second["stop"]
    step, signum, kept = first["stop"]
    assert (signum, kept[-1]) == (signal.SIGTERM, step)
    assert 5 <= step <= 6
    assert first["lead"] == ("TrainingError", "the disk is full")
    assert second["lead"] == ("ElsewhereError", "the disk is full")


def _exchange(group):
    data = group.share(b"\x00abc" * 1000 if group.first else None)
    return group.gather(torch.tensor([group.rank])).tolist(), group.sum([0.1, math.inf]), data, group.share(None)


def test_parallel_exchange_gives_every_rank_the_same(tmp_path):
    results = on_ranks(3, tmp_path, _exchange)
    assert results[0] == results[1] == results[2]
    assert results[0] == ([[0], [1], [2]], [0.1 + 0.1 + 0.1, math.inf], b"\x00abc" * 1000, b"")
    assert ALONE.sum([0.1]) == [0.1]
    assert ALONE.share(b"x") == b"x"
