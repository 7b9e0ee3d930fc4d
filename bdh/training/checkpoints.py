"""The folder of a trained run: `model.safetensors` and `config.json`, everything needed to build the model again.

A model's weights as a flat dict of tensors and back; tied weights are kept once.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdh.corpora.provenance import sha256_of
from bdh.models.base import LanguageModel, build
from bdh.project.errors import RunError
from bdh.project.files import read_json, replacing, write_json


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, the first name of tied ones; the model's own memory, not a copy."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """`tensors_of` copied to the CPU."""
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors_of(model).items()}


@torch.no_grad()
def put_into(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy `tensors` into `model`; RunError naming `source` when names or shapes do not fit."""
    own = tensors_of(model)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise RunError(f"{source} does not fit the model: tensors {', '.join(odd[:3])} stand in only one of the two")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            theirs, ours = tuple(tensors[name].shape), tuple(tensor.shape)
            raise RunError(f"{source} does not fit the model: {name} is {theirs} in the file and {ours} in the model")
        tensor.copy_(tensors[name])


def start_from(model: nn.Module, path: Path, sha256: str) -> None:
    """Copy the weights of a safetensors file into `model`; RunError when it is missing, another or does not fit."""
    try:
        found = sha256_of(path)
        tensors = load_file(path) if found == sha256 else {}
    except FileNotFoundError:
        raise RunError(f"{path} is missing; copy it there, or bring it in anew with `bdh import`") from None
    except SafetensorError as error:
        raise RunError(f"{path} is no safetensors file ({error}); bring it in anew with `bdh import`") from None
    if found != sha256:
        raise RunError(f"{path} has the sha256 {found}, params.yaml names {sha256}; bring it in anew with `bdh import`")
    put_into(model, tensors, str(path))


def are_finite(model: nn.Module) -> bool:
    """False when any weight is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_of(model).values() if tensor.is_floating_point())


WEIGHTS = "model.safetensors"
CONFIG = "config.json"
NEEDED = ("variant", "architecture", "vocab_size", "corpus", "seed", "model")
DIVERGED = "diverged"
"""Key of the config of a run whose training diverged, with `step` and `reason`; such a run has no weights."""


def save_run(folder: Path, model: LanguageModel, config: dict[str, Any]) -> None:
    """Write the weights (tied ones once) and `config`, which has at least the keys of NEEDED.

    Raises RunError when the weights cannot be written (a full disk); a run that was there before stays.
    """
    missing = [key for key in NEEDED if key not in config]
    assert not missing, missing
    with replacing(folder / WEIGHTS) as temporary:
        try:
            save_file(copy_of(model), temporary)
        except SafetensorError as error:
            raise RunError(f"{folder / WEIGHTS} cannot be written ({error}); free space there and run again") from None
    write_json(folder / CONFIG, config)


def save_diverged(folder: Path, step: int, reason: str, config: dict[str, Any]) -> None:
    """Write `config` and that training diverged; nothing of an earlier run stays in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / CONFIG, config | {DIVERGED: {"step": step, "reason": reason}})


def divergence(folder: Path) -> str | None:
    """`training diverged at step 40` of a run without a model, None of one with; RunError when there is no run."""
    found = read_json(folder / CONFIG).get(DIVERGED)
    return None if found is None else f"training diverged at step {found['step']}"


def load_run(folder: Path, device: str | torch.device = "cpu") -> tuple[LanguageModel, dict[str, Any]]:
    """The model of a run in eval mode on `device`, and its config; RunError when it is missing, damaged or diverged."""
    config = read_json(folder / CONFIG)
    if DIVERGED in config:
        raise RunError(f"{folder} has no model: {divergence(folder)}; change its settings and run `dvc repro`")
    missing = [key for key in NEEDED if key not in config]
    if missing:
        raise RunError(f"{folder / CONFIG} has no {', '.join(missing)}; delete {folder} and run `dvc repro`")
    model = build(config["architecture"], vocab_size=config["vocab_size"], **config["model"])
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; `dvc repro` makes it") from None
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    put_into(model, tensors, str(path))
    return model.eval().to(device), config
