"""A training that was killed goes on as if nothing had happened: bit for bit on a CPU."""

import pytest
import torch

from bdh.corpora.tokens import TokenCorpus
from bdh.project.device import fix_seed
from bdh.project.errors import TrainingError
from bdh.project.processes import Stop, Stopped
from bdh.training import loop, resume
from bdh.training.display import Display
from bdh.training.resume import CheckpointFolder
from bdh.training.state import Refit, Training
from tests.support.toys import Toy, corpus, settings, write_corpus


class Killed(BaseException):
    """Stands for the end of the process: nothing of it survives but files."""


@pytest.fixture
def project(tmp_path):
    """Train in one 'process': `project(**settings)`; what is in the checkpoint folder is all that passes on."""
    text = corpus(tmp_path / "tokens")

    def run(folder="checkpoints", spoil=None, stop=None, **overrides):
        model = Toy(dropout=0.3)
        training = Training(
            model, text, settings(**overrides), seed=0, device=torch.device("cpu"), precision=torch.float32
        )
        torch.rand(7)
        if spoil:
            spoil(training)
        checkpoints = CheckpointFolder("k", "f", tmp_path / folder)
        checkpoints.prepare()
        loop.run(training, checkpoints, stop or Stop(), Display("k", training.steps), lambda rows: None)
        return training

    return run


def same(one, two):
    """Weights, best weights, history and everything reported are equal to the bit."""
    assert one.history == two.history
    assert one.best == two.best
    assert one.step == two.step
    for name, tensor in one.best_weights.items():
        assert torch.equal(tensor, two.best_weights[name]), name
    for (name, left), right in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert torch.equal(left, right), name


def killing(step, method="advance"):
    """Make the training die when `method` is called at `step`."""

    def spoil(training):
        original = getattr(training, method)

        def wrapped():
            if training.step == step:
                raise Killed
            return original()

        setattr(training, method, wrapped)

    return spoil


@pytest.mark.parametrize(
    "overrides", [{}, {"average_decay": 0.0}, {"learning_rule": "hybrid"}, {"carry": True, "carry_windows": 5}], ids=str
)
def test_resume_after_a_kill_at_any_step_continues_exactly(project, overrides):
    straight = project(folder="straight", **overrides)
    for step in range(12):
        with pytest.raises(Killed):
            project(folder=f"killed{step}", spoil=killing(step), **overrides)
        same(project(folder=f"killed{step}", **overrides), straight)


def test_resume_after_many_kills_continues_exactly(project):
    straight = project(folder="straight")
    for step in (2, 4, 4, 7, 9, 11):
        with pytest.raises(Killed):
            project(spoil=killing(step))
    with pytest.raises(Killed):
        project(spoil=killing(12, "validate"))
    same(project(), straight)


def test_resume_hebbian_continues_exactly(project):
    straight = project(folder="straight", learning_rule="hebbian")
    with pytest.raises(Killed):
        project(spoil=killing(8), learning_rule="hebbian")
    same(project(learning_rule="hebbian"), straight)


@pytest.mark.parametrize("moment", ["tensors", "rest", "rename", "after"])
def test_resume_after_a_kill_while_a_checkpoint_is_written(project, monkeypatch, moment):
    straight = project(folder="straight")
    target = {"tensors": (resume, "save_file"), "rest": (resume, "_sha256"), "after": (resume.shutil, "rmtree")}
    owner, name = target.get(moment, (resume.Path, "rename"))
    original, calls = getattr(owner, name), []

    def die(*args, **kwargs):
        calls.append(args)
        if len(calls) < (7 if moment == "after" else 3):
            return original(*args, **kwargs)
        if moment == "tensors":
            args[1].write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(owner, name, die)
    with pytest.raises(Killed):
        project()
    monkeypatch.undo()
    resumed = project()
    same(resumed, straight)


def test_resume_falls_back_when_the_newest_checkpoint_is_damaged(project, tmp_path, caplog):
    straight = project(folder="straight")
    with pytest.raises(Killed):
        project(spoil=killing(8))
    newest = tmp_path / "checkpoints/k/f/6/tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-40])
    same(project(), straight)
    assert caplog.text.count("damaged checkpoint") == 1


def test_resume_with_other_random_numbers_would_be_noticed(project):
    straight = project(folder="straight")
    with pytest.raises(Killed):
        project(spoil=killing(8))

    def forget(training):
        original = training.restore

        def restore(checkpoint):
            original(checkpoint)
            torch.manual_seed(99)

        training.restore = restore

    assert project(spoil=forget).history != straight.history


def test_resume_after_a_signal_loses_no_step(project, tmp_path):
    straight, stop = project(folder="straight"), Stop()

    def interrupt(training):
        original = training.advance

        def advance():
            if training.step == 4:
                stop.request(15)
            original()

        training.advance = advance

    with pytest.raises(Stopped) as caught:
        project(spoil=interrupt, stop=stop)
    assert caught.value.code == 143
    assert CheckpointFolder("k", "f", tmp_path / "checkpoints").steps() == [3, 5]
    same(project(), straight)


def test_resume_after_a_full_disk_continues_exactly(project, monkeypatch):
    straight = project(folder="straight")
    original, calls = resume.save_file, []

    def full(*args):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(*args)

    monkeypatch.setattr(resume, "save_file", full)
    with pytest.raises(TrainingError, match=r"step 9 cannot be written .* the checkpoint of step 6 is kept") as caught:
        project()
    assert str(caught.value).count("is kept") == 1
    monkeypatch.undo()
    same(project(), straight)


def test_resume_keeps_early_stopping(project):
    chosen = {"steps": 200, "learning_rate": 8.0, "warmup_steps": 0, "validate_every": 2, "patience": 0.04}
    straight = project(folder="straight", **chosen)
    assert straight.step < 200
    with pytest.raises(Killed):
        project(spoil=killing(straight.step - 1), **chosen)
    same(project(**chosen), straight)


def test_resume_adds_up_what_the_training_cost(project):
    with pytest.raises(Killed):
        project(spoil=killing(10))
    resumed = project()
    before = resumed.usage.train_s
    assert before > 0
    assert resumed.usage.report()["seconds"] >= before
    assert resumed.tokens_seen == 12 * 4 * 16


def unlike(folder):
    """A corpus whose validation text has no letter in common with its training text."""
    return TokenCorpus.open(write_corpus(folder, validation="XYZ ZYX, YXZ " * 24))


def refitted(text, folder, best, spoil=None, **overrides):
    """A second training in one 'process', up to the step that `best` names."""
    torch.rand(3)
    training = Refit(
        Toy(dropout=0.3), text, settings(**overrides), best, seed=0, device=torch.device("cpu"), precision=torch.float32
    )
    if spoil:
        spoil(training)
    checkpoints = CheckpointFolder("k", "r", folder)
    checkpoints.prepare()
    loop.run(training, checkpoints, Stop(), Display("k", training.steps), lambda rows: None)
    return training


@pytest.mark.parametrize("judged", ["raw", "average"])
def test_refit_ends_at_the_chosen_step_and_repeats_after_a_kill(tmp_path, judged):
    text, best = corpus(tmp_path / "tokens"), {"step": 7, "judged": judged}
    straight = refitted(text, tmp_path / "straight", best)
    assert (straight.step, straight.history, straight.model.steps_seen) == (7, [], [*range(1, 8)])
    for step in (2, 3, 6):
        with pytest.raises(Killed):
            refitted(text, tmp_path / f"killed{step}", best, spoil=killing(step))
        same(refitted(text, tmp_path / f"killed{step}", best), straight)


def test_refit_keeps_the_raw_or_the_averaged_weights_as_they_were_chosen(tmp_path):
    text = corpus(tmp_path / "tokens")
    raw, average = (refitted(text, tmp_path / name, {"step": 7, "judged": name}) for name in ("raw", "average"))
    for (name, one), other, mean in zip(
        raw.model.named_parameters(), average.model.parameters(), average.average.tensors, strict=True
    ):
        assert torch.equal(other, mean)
        assert not torch.equal(one, other), name


def test_refit_reads_the_validation_text_at_the_learning_rates_of_the_first_training(tmp_path):
    """Without the validation text it is the first training, step for step."""
    text = unlike(tmp_path / "tokens")
    best = {"step": 5, "judged": "raw"}
    first = Training(Toy(), text, settings(), seed=0, device=torch.device("cpu"), precision=torch.float32)
    second = Refit(Toy(), text, settings(), best, seed=0, device=torch.device("cpu"), precision=torch.float32)
    read = [{text.decode(window) for step in range(1, 40) for window in t.batch(step)[0]} for t in (first, second)]
    new = [[window for window in windows if "X" in window] for windows in read]
    assert not new[0]
    assert new[1]
    assert not any("a" in window for window in new[1]), "no window joins the two texts"
    for training in (first, second):
        training.text, training.segments = text.tokens("train"), text.segments("train")
        fix_seed(0, torch.device("cpu"))
        while training.step < 5:
            training.advance()
    assert first.last_loss == second.last_loss
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
