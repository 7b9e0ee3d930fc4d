"""One run of the comparison: from params.yaml and a tokenized corpus to the run's folder and results."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from bdh.corpora.tokens import TokenCorpus
from bdh.models.base import LanguageModel, architecture_module, build, parameters_of
from bdh.models.catalog import FOLDER
from bdh.params import Params, Train, named_settings
from bdh.project.device import choose_device, choose_precision
from bdh.project.errors import ParamsError, TrainingError
from bdh.project.files import CODE, RESULTS, RUNS, TOKENS, run_key, write_json
from bdh.project.origin import keep_origin
from bdh.project.processes import Stop
from bdh.tracking import Tracker
from bdh.training import loop, report
from bdh.training.checkpoints import WEIGHTS, begin_with, put_into, save_diverged, save_run, tensors_of
from bdh.training.display import make_display
from bdh.training.distributed.group import ALONE, ProcessGroup, check_batch
from bdh.training.distributed.launch import processes
from bdh.training.distributed.worker import is_worker
from bdh.training.report import write_samples
from bdh.training.resume import CheckpointFolder, fingerprint, only_one
from bdh.training.state import Refit, Row, Training

SPREAD = ("devices", "train.devices", "train.accumulate")
CARRYING = ("train.carry", "train.carry_damping", "train.carry_windows")


@dataclass(frozen=True)
class Run:
    """What one training is made of; `model` holds every setting of the architecture's Config."""

    variant: str
    architecture: str
    corpus: TokenCorpus
    seed: int
    train: Train
    model: dict[str, Any]
    device: torch.device
    precision: torch.dtype
    group: ProcessGroup = ALONE
    name: str = ""

    @property
    def key(self) -> str:
        """Name of the run; a trial of the search has a `name` of its own."""
        return self.name or run_key(self.variant, self.corpus.name, self.seed)

    def settings(self) -> dict[str, Any]:
        """All settings by dotted name, for the tracker and the fingerprint."""
        named = named_settings(
            self.variant, self.architecture, self.corpus.name, self.seed, self.train.model_dump(), self.model
        )
        precision = str(self.precision).removeprefix("torch.")
        return named | {"device": self.device.type, "precision": precision, "devices": self.group.size}

    def build(self) -> LanguageModel:
        """The model before its first step, with the weights of another run where `train.init_from` names one."""
        model = build(self.architecture, vocab_size=self.corpus.vocab_size, seed=self.seed, **self.model)
        if (folder := self.origin()) is not None:
            begin_with(model, folder, self.architecture, self.corpus.tokenizer.description())
        return model

    def origin(self) -> Path | None:
        """The folder of the run that this one begins with: `train.init_from` is its key or a path."""
        name = self.train.init_from
        if name is None:
            return None
        return Path(name) if "/" in name else RUNS / name

    def means(self) -> dict[str, Any]:
        """What a Training is made with beside model, corpus and settings."""
        return {"seed": self.seed, "device": self.device, "precision": self.precision, "group": self.group}

    def checkpoints(self) -> CheckpointFolder:
        """Where this very training (settings, data, code, seed, kind of device) keeps its checkpoints.

        They fit any number of devices and micro-batches.
        """
        manifest = CODE / "train" / f"{self.variant}.json"
        source = manifest if manifest.exists() else FOLDER / f"{self.architecture}.py"
        unused = SPREAD if self.train.carry else (*SPREAD, *CARRYING)
        parts = {name: value for name, value in self.settings().items() if name not in unused} | {
            "corpus_digest": self.corpus.digest,
            "code": source.read_text(encoding="utf-8"),
            "torch": torch.__version__,
        }
        if (origin := self.origin()) is not None and (origin / WEIGHTS).is_file():
            parts["origin"] = hashlib.sha256((origin / WEIGHTS).read_bytes()).hexdigest()
        return CheckpointFolder(self.key, fingerprint(parts))


def ranks_of(params: Params, variant: str, corpus: str) -> int:
    """Processes to start for a training on this machine: 1 unless `train.devices` asks for more.

    In a process that torchrun has started it is 1. Raises what a training with such settings could not begin with.
    """
    check_names(params, variant, corpus)
    train = params.train_of(variant, corpus)
    check_carry(train, variant, params.architecture_of(variant))
    if is_worker():
        return 1
    on_gpu = params.device != "cpu" and torch.cuda.is_available()
    if params.device == "cuda" and not on_gpu:
        choose_device(params.device)
    gpus = torch.cuda.device_count() if on_gpu else 0
    size = processes(train, gpus)
    check_batch(train, size)
    if size > 1:
        TokenCorpus.open(TOKENS / corpus)
    return size


def check_names(params: Params, variant: str, corpus: str) -> None:
    """Raise ParamsError for a variant or corpus that params.yaml does not describe."""
    for kind, name, sections in (("variant", variant, params.variant), ("corpus", corpus, params.corpus)):
        if name not in sections:
            raise ParamsError(
                f"unknown {kind} {name!r}; sections of {kind} in params.yaml: {', '.join(sorted(sections))}"
            )


def check_carry(train: Train, variant: str, architecture: str) -> None:
    """Raise ParamsError for a training with a carried state (`train.carry`) that the variant cannot have."""
    if not train.carry:
        return
    if not architecture_module(architecture).Model.carries_state:
        raise ParamsError(
            f"train.carry: {variant} (architecture {architecture}) has no state of constant size that could be handed "
            "on from window to window; set train.carry: false for this variant"
        )
    if train.learning_rule != "backprop":
        raise ParamsError(
            f"train.carry: {variant} learns by {train.learning_rule}, and local rules read every window afresh; "
            "set train.carry: false or train.learning_rule: backprop"
        )


def describe(params: Params, variant: str, corpus: str, seed: int, group: ProcessGroup = ALONE, name: str = "") -> Run:
    """Gather one run's settings; ParamsError for a variant or corpus that params.yaml does not describe."""
    check_names(params, variant, corpus)
    train, architecture = params.train_of(variant, corpus), params.architecture_of(variant)
    check_carry(train, variant, architecture)
    device = choose_device(params.device, params.threads)
    return Run(
        variant,
        architecture,
        TokenCorpus.open(TOKENS / corpus),
        seed,
        train,
        params.model_of(variant, corpus),
        device,
        choose_precision(params.precision, device),
        group,
        name,
    )


@contextmanager
def held(run: Run, stop: Stop) -> Iterator[CheckpointFolder]:
    """The run's checkpoint folder, with the run to ourselves; deleted when the block succeeds.

    Of a group of processes the first one holds the lock for all.
    """
    folder = run.checkpoints()
    with ExitStack() as lock:

        def take() -> None:
            lock.enter_context(only_one(run.key, stop))
            folder.prepare()

        run.group.lead(take)
        yield folder
        if run.group.first:
            folder.clear()


def check_memory(run: Run) -> None:
    """Raise TrainingError, with an estimate, for a step that cannot fit, before anything is allocated.

    On a CPU: its logits and their gradient. On a GPU logits need not exist as a whole: what is sure to be there are the
    weights, where gradients are learned from their gradients and two moments, and one number per token and channel.
    """
    if run.device.type == "cuda":
        _check_gpu_memory(run)
    rows = run.train.batch_size // (run.train.accumulate * run.group.size)
    need, have = 8 * rows * run.train.window * run.corpus.vocab_size, psutil.virtual_memory().total
    if run.device.type == "cpu" and need > have:
        raise TrainingError(
            f"{run.key}: a step of {rows} windows of {run.train.window} tokens has {need / 2**30:.3g} GiB of logits, "
            f"this machine has {have / 2**30:.3g} GiB: make batch_size or window smaller, or accumulate larger"
        )


def _check_gpu_memory(run: Run) -> None:
    module = architecture_module(run.architecture)
    config = module.Config(**run.model)
    parameters = parameters_of(module, config, run.corpus.vocab_size)
    rows = run.train.batch_size // (run.train.accumulate * run.group.size)
    copies = 4 if run.train.learning_rule == "backprop" else 1
    weights, activity = 4 * copies * parameters, 2 * rows * run.train.window * run.model.get("n_embd", 1)
    have = torch.cuda.get_device_properties(run.device).total_memory
    if weights + activity > have:
        raise TrainingError(
            f"{run.key}: {parameters:.3g} parameters need {weights / 2**30:.3g} GiB with gradients and moments, a step "
            f"of {rows} windows of {run.train.window} tokens {activity / 2**30:.3g} GiB at least, and this GPU has "
            f"{have / 2**30:.3g} GiB: make the sizes of `model`, batch_size or window smaller, or accumulate larger"
        )


def learn(run: Run, folder: CheckpointFolder, stop: Stop, tracker: Tracker) -> Training:
    """Train, or go on where a killed training stopped; the result has the best weights in its model, or diverged.

    With `train.refit` these are the weights of a second training (`Refit`); all else in the result is the first one's.
    """
    check_memory(run)
    tracker.log_dataset(run.corpus.name, run.corpus.digest[:36], str(TOKENS / run.corpus.name), "training")
    training = Training(run.build(), run.corpus, run.train, **run.means())
    display = make_display(run.key, training.steps, speaks=run.group.first)
    loop.run(training, folder, stop, display, lambda rows: tracker.log_history([_numbers(row) for row in rows]))
    if run.train.refit and training.diverged is None:
        refit(run, training, folder, stop)
    return training


def refit(run: Run, first: Training, folder: CheckpointFolder, stop: Stop) -> None:
    """Train anew on training and validation text for the steps that `first` chose; its model gets the new weights.

    Checkpoints lie inside the folder of the first training, which keeps one of its end: a kill repeats neither.
    """
    loop.save(first, folder)
    again = CheckpointFolder("refit", fingerprint({"best": first.best}), folder.path)
    run.group.lead(again.prepare)
    second = Refit(run.build(), run.corpus, run.train, first.best, **run.means())
    loop.run(second, again, stop, make_display(f"{run.key} refit", second.steps, run.group.first), lambda rows: None)
    first.diverged = second.diverged
    if second.diverged is None:
        put_into(first.model, tensors_of(second.model), "the second training")


def write(run: Run, training: Training, folder: CheckpointFolder, tracker: Tracker) -> None:
    """Write the run's folder and results, and show the tracker its pictures and texts; rank 0 alone does.

    Of a training that diverged there is no model to write, and one line on stderr says so.
    """
    if not run.group.first:
        return
    config = {
        "variant": run.variant,
        "architecture": run.architecture,
        "vocab_size": run.corpus.vocab_size,
        "corpus": run.corpus.name,
        "seed": run.seed,
        "model": run.model,
        "train": run.train.model_dump(),
        "parameters": training.model.parameter_count(),
        "corpus_digest": run.corpus.digest,
        "tokenizer": run.corpus.tokenizer.description(),
    }
    output, diverged = RUNS / run.key, training.diverged
    if diverged is not None:
        save_diverged(output, diverged.step, diverged.reason, config)
        sys.stderr.write(f"warning: {run.key}: {diverged}; it has no result\n")
    else:
        _write_model(output, run, training, config)
    history = RESULTS / "history" / f"{run.key}.csv"
    report.write_history(history, training.history)
    numbers = report.train_report(training, run.variant, run.corpus.name, run.seed)
    write_json(RESULTS / "train" / f"{run.key}.json", numbers)
    write_json(RESULTS / "timing" / f"{run.key}.json", report.timing_report(training))
    report.draw_history(folder.path / "curves.png", run.key, training.history)
    tracker.log_file(folder.path / "curves.png", "figures")
    keep_origin("train", run.key)
    if diverged is None:
        tracker.log_file(output / "samples.json", "samples")


def _write_model(output: Path, run: Run, training: Training, config: dict[str, Any]) -> None:
    """The weights, the tokenizer, texts that the model writes, and how far its plastic synapses moved."""
    save_run(output, training.model, config)
    run.corpus.tokenizer.save(output)
    write_json(output / "samples.json", write_samples(training.model, run.corpus, run.seed))
    changes = training.model.weight_changes()
    if changes is not None:
        write_json(output / "weight_changes.json", changes)


def _numbers(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None}
