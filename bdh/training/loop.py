"""The one training loop: validate, checkpoint, stop when asked, step."""

from __future__ import annotations

from collections.abc import Callable

from bdh.project.processes import Stop
from bdh.training.display import Display
from bdh.training.resume import CheckpointFolder, shared
from bdh.training.state import DivergedError, Row, Training


def run(
    training: Training, folder: CheckpointFolder, stop: Stop, display: Display, record: Callable[[list[Row]], None]
) -> None:
    """Take `training` from where it is, or from its newest checkpoint, to its end; the best weights are in the model.

    `record` gets every row of the history, those of an earlier process first. A signal (to any rank) ends the current
    step, writes a checkpoint and raises Stopped on all ranks. CheckpointError (a full disk) leaves the last good
    checkpoint. A loss, gradient or weight that is not finite is an end too, on all ranks: `training.diverged` says so,
    and no weights are chosen.
    """
    resume(training, folder, display)
    if training.history:
        record(training.history)
    saved = training.step
    try:
        start_compiler(training, display)
        training.update.start_graphs(display.note)
        with stop.deferred():
            while not training.group.asked_to_stop(stop):
                if training.validation_due():
                    row = training.validate()
                    display.validated(row, training.tokens_per_s)
                    record([row])
                if training.finished():
                    break
                if training.step % training.settings.checkpoint_every == 0 and training.step != saved:
                    save(training, folder)
                    saved = training.step
                training.advance()
                display.advance(training.step, training.last_loss)
            if training.group.asked_to_stop(stop) and training.step != saved:
                save(training, folder)
        training.finish()
    except DivergedError as error:
        training.diverged = error
    finally:
        display.close()


def save(training: Training, folder: CheckpointFolder) -> None:
    """Write a checkpoint: every rank adds what is its own, the first one writes."""
    checkpoint = training.snapshot()
    training.group.lead(lambda: folder.write(checkpoint))


def resume(training: Training, folder: CheckpointFolder, display: Display) -> None:
    """Go on from the newest sound checkpoint if there is one, and say so."""
    checkpoint = shared(training.group, training.group.lead(folder.read))
    if checkpoint is not None:
        training.restore(checkpoint)
        display.note(f"going on from the checkpoint of step {training.step} of {training.steps}")


def start_compiler(training: Training, display: Display) -> None:
    """Compile the model where the settings ask for it; where that fails say so and train without."""
    if training.finished():
        return
    reason = training.update.compile(*training.batch(1)[:2])
    if reason is not None:
        display.note(f"torch.compile is not available here ({reason}); training goes on without it")
