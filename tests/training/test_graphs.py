"""Steps that are replayed from a recording train as steps that run; on a GPU the recording is a CUDA graph."""

import pytest
import torch

from bdh.models.catalog import settings_of
from bdh.project.processes import Stop
from bdh.training import loop
from bdh.training.checkpoints import tensors_of
from bdh.training.display import SilentDisplay
from bdh.training.graphs import StepGraphs, record
from bdh.training.resume import CheckpointFolder
from bdh.training.state import Training
from tests.support.toys import Toy, corpus, settings
from tests.support.variants import KINDS, preset_of, tiny

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TRAINED = [name for name in (*KINDS, "slim_hybrid", "slim_hebbian") if tiny(name, vocab_size=256).trains]
SLIM = {"prune_every": 4, "prune_threshold": 0.02, "homeostasis_every": 3}
RULES = {"slim_hybrid": "hybrid", "slim_hebbian": "hebbian", "slim_frozen": "hebbian"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus") / "tokens")


def training_of(text, variant, device, precision=torch.float32, **overrides):
    """A short training with dropout, spikes, pruning and scaling where the variant has them."""
    known = settings_of(preset_of(variant)[0])
    wanted = {"dropout": 0.2, "block_size": 16, "window": 16} | (SLIM if "prune_every" in known else {})
    model = tiny(variant, vocab_size=256, seed=3, **{name: value for name, value in wanted.items() if name in known})
    chosen = settings(**{"steps": 11, "validate_every": 5, "learning_rule": RULES.get(variant, "backprop")} | overrides)
    return Training(model, text, chosen, seed=1, device=device, precision=precision)


def steps_of(training):
    """Losses of all steps, as `Update.apply` gives them; they are looked at only when the training is over."""
    found = []
    while training.step < training.steps:
        if training.validation_due():
            training.validate()
        training.step += 1
        found.append(training.update.apply(training.step, *training.batch(training.step)))
    return [(float(loss), None if norm is None else float(norm)) for loss, norm in found]


def same_weights(one, two, rtol, atol):
    for (name, first), second in zip(tensors_of(one.model).items(), tensors_of(two.model).values(), strict=True):
        torch.testing.assert_close(first, second, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    for first, second in zip(one.average.tensors, two.average.tensors, strict=True):
        torch.testing.assert_close(first, second, rtol=rtol, atol=atol)


class Recorder:
    """Stands in for CUDA graphs: runs nothing when it records, and at a replay what was recorded, as it was."""

    def __init__(self):
        self.recorded = 0

    def __call__(self, work):
        self.recorded += 1
        return work


@pytest.mark.parametrize("variant", TRAINED)
def test_recorded_steps_train_like_steps_that_run(text, variant):
    """A step that keeps the tokens, the learning rate, the share of the average or the pruning of the step that was
    recorded, or a loss that a later step overwrites, would be found."""
    plain, recorded = training_of(text, variant, CPU), training_of(text, variant, CPU)
    torch.manual_seed(5)
    expected = steps_of(plain)
    recorder, said = Recorder(), []
    recorded.update.start_graphs(said.append, recorder)
    torch.manual_seed(5)
    found = steps_of(recorded)
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=2e-5)
    assert (found[0][1] is None) == (expected[0][1] is None)
    same_weights(recorded, plain, 1e-3, 2e-5)
    assert said == []
    assert recorder.recorded == (3 if "slim" in variant else 1), "plain steps, those that scale, those that prune"


def test_recorded_carried_training_hands_its_state_on(text):
    plain, recorded = (training_of(text, "bdh", CPU, carry=True, carry_windows=3, accumulate=2) for _ in range(2))
    torch.manual_seed(5)
    expected = steps_of(plain)
    recorded.update.start_graphs(print, Recorder())
    torch.manual_seed(5)
    assert [loss for loss, _ in steps_of(recorded)] == pytest.approx([loss for loss, _ in expected], rel=2e-5)
    for name, tensor in plain.update.carried.tensors.items():
        torch.testing.assert_close(recorded.update.carried.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_step_that_cannot_be_recorded_runs_as_it_is_and_says_so(text):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, refused = training_of(text, "hebbian_block", CPU), training_of(text, "hebbian_block", CPU)
    said = []
    refused.update.start_graphs(said.append, refuse)
    found, expected = steps_of(refused), steps_of(plain)
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=2e-5)
    assert said == [
        "this step cannot be a CUDA graph (operation not permitted when stream is capturing); "
        "training goes on without one"
    ]


def test_graphs_need_a_gpu_and_say_so_only_to_who_asked(text):
    for asked, lines in (("auto", 0), ("off", 0), ("on", 1)):
        training, said = training_of(text, "bdh", CPU, graphs=asked), []
        training.update.start_graphs(said.append)
        assert training.update.graphs is None
        assert len(said) == lines
    assert said == ["training goes on without CUDA graphs: they are for GPUs and this is cpu"]


def test_graphs_of_two_kinds_share_their_buffers():
    """One kind is recorded while the other has run: both read the newest inputs, and each does its own work."""
    graphs = StepGraphs(print, Recorder())

    def work(factor, x):
        return x.sum() * factor, None

    for step in range(1, 9):
        kind = step % 2
        loss, norm = graphs.run(kind, lambda x, kind=kind: work(10**kind, x), (torch.full((3,), float(step)),))
        assert (float(loss), norm) == (3.0 * step * 10**kind, None)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("compiled", ["off", "on"])
@pytest.mark.parametrize("variant", TRAINED)
def test_cuda_graph_trains_like_eager_steps(text, variant, compiled):
    device = torch.device("cuda")
    eager, graphed = (training_of(text, variant, device, compile=compiled, steps=14) for _ in range(2))
    said = []
    for training in (eager, graphed):
        torch._dynamo.reset()
        assert training.update.compile(*training.batch(1)[:2]) is None
        if training is graphed:
            training.update.start_graphs(said.append)
        torch.manual_seed(5)
        training.found = steps_of(training)
    assert said == []
    assert any(replay is not None for replay in graphed.update.graphs.replays.values())
    assert [loss for loss, _ in graphed.found] == pytest.approx([loss for loss, _ in eager.found], rel=1e-3)
    same_weights(graphed, eager, 2e-2, 2e-3)


@pytest.mark.gpu
@needs_gpu
def test_cuda_graph_hands_a_carried_state_on(text):
    device = torch.device("cuda")
    eager, graphed = (training_of(text, "bdh", device, carry=True, carry_windows=3, accumulate=2) for _ in range(2))
    graphed.update.start_graphs(pytest.fail)
    for training in (eager, graphed):
        torch.manual_seed(5)
        training.found = steps_of(training)
    assert [loss for loss, _ in graphed.found] == pytest.approx([loss for loss, _ in eager.found], rel=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_cuda_graph_goes_on_from_a_checkpoint(text, tmp_path):
    """The optimizer's memory and learning rates that a checkpoint brings are those that the graph reads."""
    histories = []
    for folder, stops in (("straight", [12]), ("killed", [8, 12])):
        for last in stops:
            training = training_of(text, "gated_linear", torch.device("cuda"), steps=12, checkpoint_every=7)
            checkpoints = CheckpointFolder("k", "f", tmp_path / folder)
            checkpoints.prepare()
            if last < 12:
                training.steps = last
            loop.run(training, checkpoints, Stop(), SilentDisplay("k", 12), lambda rows: None)
        histories.append([row["validation_nats"] for row in training.history if row["step"] in (0, 5, 10, 12)])
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_step_that_asks_the_gpu_for_a_number_falls_back_on_a_gpu(text):
    class Asking(Toy):
        def after_step(self, step):
            self.asked = float(self.gain.sum())

    training = Training(Asking(), text, settings(steps=6), seed=1, device=torch.device("cuda"), precision=torch.float32)
    said = []
    training.update.start_graphs(said.append)
    losses = [loss for loss, _ in steps_of(training)]
    assert losses[-1] < losses[0]
    assert len(said) == 1
    assert "cannot be a CUDA graph" in said[0]


@pytest.mark.gpu
@needs_gpu
def test_recording_runs_nothing():
    x = torch.zeros(3, device="cuda")
    replay = record(lambda: x.add_(1.0))
    assert float(x.sum()) == 0.0
    replay()
    assert float(x.sum()) == 3.0
