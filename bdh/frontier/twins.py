"""Untrained twins: what models of a shape with fresh weights show on a corpus, for every metric of the registry.

They depend on the shape (architecture, settings of the model, vocabulary), the text and the settings of the metrics,
and on no training: all seeds and all presets of one shape share them. What was measured once is kept in
`data/shapes`, under a fingerprint of everything that it depends on; a second process that wants the same
waits for the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import torch

from bdh.frontier import registry
from bdh.frontier.parallel import each
from bdh.frontier.rows import finite_points, mean_or_none, odd_number
from bdh.frontier.survey import (
    Subject,
    Survey,
    Texts,
    activity_report,
    sample,
    state_over,
    survey,
    weight_sparsity,
)
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.evaluation import codes_to_keep
from bdh.hebbian.held_out import HeldOut
from bdh.models.base import LanguageModel, architecture_module, build
from bdh.project.errors import RunError
from bdh.project.files import SHAPES, read_json, write_json

if TYPE_CHECKING:
    from bdh.params import Frontier, Hebbian

FORM = {"shape", "seeds", "summary", "numbers", "points"}


@dataclass(frozen=True)
class Shape:
    """What an untrained model is made of; `model` holds settings of the architecture's Config."""

    architecture: str
    vocab_size: int
    model: Mapping[str, Any]

    def twin(self, seed: int) -> LanguageModel:
        """A model of this shape with fresh weights."""
        return build(self.architecture, vocab_size=self.vocab_size, seed=seed, **self.model).eval()

    def identity(self) -> dict[str, Any]:
        """Everything that tells it from other shapes; settings that bear on training alone are left out."""
        idle = architecture_module(self.architecture).Model.training_settings
        model = {name: value for name, value in self.model.items() if name not in idle}
        return {"architecture": self.architecture, "vocab_size": self.vocab_size, "model": model}


@dataclass(frozen=True)
class Protocol:
    """How text is read and measured. stage_b: the text of stage `hebbian`, which the coactivation state is made of."""

    texts: Texts
    stage_b: HeldOut
    settings: Frontier
    hebbian: Hebbian
    device: torch.device
    bfloat16: bool


@dataclass(frozen=True)
class Twins:
    """What the untrained twins of a shape show.

    summary: `untrained` of a frontier report. numbers: by metric, what `alone` says of every twin that shows anything.
    points: by metric, the points of the first twin's curves.
    """

    shape: Mapping[str, Any]
    seeds: list[int]
    summary: dict[str, Any]
    numbers: dict[str, list[dict[str, Any]]]
    points: dict[str, list[dict[str, Any]]]


def seeds(count: int) -> list[int]:
    """Seeds of the twins: negative, as no seed of a run is."""
    return [-1 - number for number in range(count)]


def measure(shape: Shape, protocol: Protocol) -> dict[str, Any]:
    """What `load` reads. Twins are looked at side by side on a CPU; a GPU reads for one after the other."""
    drawn, names = seeds(protocol.settings.twins), [metric.name for metric in registry.METRICS]
    if protocol.device.type == "cpu":
        alone = dataclasses.replace(protocol, settings=protocol.settings.model_copy(update={"jobs": 1}))
        looks = each([partial(look, shape, alone, at, seed) for at, seed in enumerate(drawn)], protocol.settings.jobs)
    else:
        looks = [look(shape, protocol, at, seed) for at, seed in enumerate(drawn)]
    bits = [one.sample["bits_per_byte"] for one in looks if one.sample["bits_per_byte"] is not None]
    summary = {
        "seeds": drawn,
        "nats_per_token": float(np.mean([one.sample["nats_per_token"] for one in looks])),
        "bits_per_byte": mean_or_none(bits),
        **looks[0].shown,
    }
    numbers = {
        name: [found for one in looks if (found := one.numbers[name]) and odd_number(found) is None] for name in names
    }
    return {
        "shape": shape.identity(), "seeds": drawn, "summary": summary, "numbers": numbers, "points": looks[0].points
    }  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What one twin shows. shown: activity and sparsity of its weights. numbers, points: by metric."""

    sample: dict[str, Any]
    shown: dict[str, Any]
    numbers: dict[str, dict[str, Any]]
    points: dict[str, list[dict[str, Any]]]


def look(shape: Shape, protocol: Protocol, number: int, seed: int) -> Look:
    """Read the text with one twin and ask every metric of the registry."""
    model = shape.twin(seed).to(protocol.device)
    own, texts = _read(model, protocol), protocol.texts
    subject = Subject(model, own, texts, protocol.settings, protocol.device, protocol.bfloat16, number)
    found = {metric.name: importlib.import_module(metric.module).alone(subject) for metric in registry.METRICS}
    return Look(
        sample(own, texts.text),
        activity_report(own) | {"weight_sparsity": weight_sparsity(model)},
        {name: numbers for name, (numbers, _) in found.items()},
        {name: finite_points(points) for name, (_, points) in found.items()},
    )


def _read(model: LanguageModel, protocol: Protocol) -> Survey:
    """The text as a twin reads it, with a coactivation state over the windows that a run of its shape has one for."""
    text, rule = protocol.stage_b, protocol.hebbian
    kept = codes_to_keep(model, text)
    like = Coactivation(
        codes=np.zeros((kept, 0, 0, 0), dtype=np.float32),
        tokens=text.bounds[1 : kept + 1].astype(np.int64),
        document=text.document[:kept].astype(np.int64),
        damping=rule.damping,
        eta=rule.eta,
        snapshot_every=rule.snapshot_every,
    )
    own = protocol.texts.text
    return survey(model, own, protocol.device, protocol.bfloat16, like=state_over(own, like))


def once(parts: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, or gave when it was called with equal `parts` before, in this process or another."""
    text = json.dumps(parts, sort_keys=True)
    path = SHAPES / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if path.exists():
            kept = read_json(path)
            if isinstance(kept, dict) and kept.keys() == FORM:
                return kept
        found = make()
        write_json(path, found)
    return found


def load(path: Path, config: Mapping[str, Any]) -> Twins:
    """The twins in a file of stage `twins`; RunError when it is missing, damaged, or of another shape than a run's.

    config: the run's config.json.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.keys() != FORM:
        raise RunError(f"{path} is no file of untrained twins; delete it and run `dvc repro`")
    twins, shape = Twins(**found), Shape(config["architecture"], config["vocab_size"], config["model"])
    if twins.shape != shape.identity():
        raise RunError(f"{path} is about models of another shape than the run; `dvc repro` makes both anew")
    return twins
