"""The folder of a trained run: `model.safetensors` and `config.json`, everything needed to build the model again.

A model's weights as a flat dict of tensors and back; tied weights are kept once.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import ConfigDict, Field, with_config
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from bdh.corpora.provenance import sha256_of
from bdh.models.base import LanguageModel, build
from bdh.project.errors import RunError, VariantError, one_line
from bdh.project.files import read_as, replacing, write_json


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


def are_finite(model: nn.Module) -> bool:
    """False when any weight is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_of(model).values() if tensor.is_floating_point())


WEIGHTS = "model.safetensors"
CONFIG = "config.json"
SUM = "weights_sha256"
"""Key of the config with the sha256 of the file of weights: one that was changed since is not believed."""
NEEDED = ("variant", "architecture", "vocab_size", "corpus", "seed", "model")
DIVERGED = "diverged"
"""Key of the config of a run whose training diverged, with `step` and `reason`; such a run has no weights."""


class _Diverged(TypedDict):
    """When and why a training diverged."""

    step: int
    reason: str


@with_config(ConfigDict(extra="allow"))
class _RunConfig(TypedDict):
    """What reading a run needs of its config.json; there is more in it."""

    variant: str
    architecture: str
    vocab_size: Annotated[int, Field(ge=1)]
    corpus: str
    seed: int
    model: dict[str, int | float | bool | str]
    weights_sha256: NotRequired[str]
    diverged: NotRequired[_Diverged]


def _config_of(folder: Path) -> dict[str, Any]:
    remedy = f"delete {folder} and run `dvc repro`"
    return dict(read_as(_RunConfig, folder / CONFIG, "stage train", remedy))


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
    write_json(folder / CONFIG, config | {SUM: sha256_of(folder / WEIGHTS)})


def save_diverged(folder: Path, step: int, reason: str, config: dict[str, Any]) -> None:
    """Write `config` and that training diverged; nothing of an earlier run stays in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / CONFIG, config | {DIVERGED: {"step": step, "reason": reason}})


def divergence(folder: Path) -> str | None:
    """`training diverged at step 40` of a run without a model, None of one with; RunError when there is no run."""
    found = _config_of(folder).get(DIVERGED)
    return None if found is None else f"training diverged at step {found['step']}"


def begin_with(model: LanguageModel, folder: Path, architecture: str, tokenizer: dict[str, Any]) -> None:
    """Put the weights of the run in `folder` into `model` (`train.init_from`).

    Raises RunError when there is no such run, or its weights or its vocabulary are not those of the model.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(
            f"train.init_from: {folder} holds no run; name a run in {folder.parent} or a folder. DVC removes the run "
            "that it is about to train again: to go on from that one, copy its folder and name the copy"
        )
    found, config = load_run(folder)
    if config["architecture"] != architecture:
        raise RunError(f"train.init_from: {folder} is a {config['architecture']}, this run is a {architecture}")
    if config.get("tokenizer", tokenizer) != tokenizer:
        raise RunError(f"train.init_from: {folder} was trained on other words (tokenizer {config['tokenizer']})")
    put_into(model, tensors_of(found), f"train.init_from: {folder}")


def load_run(folder: Path, device: str | torch.device = "cpu") -> tuple[LanguageModel, dict[str, Any]]:
    """The model of a run in eval mode on `device`, and its config (without SUM).

    Raises RunError when it is missing, damaged or diverged.
    """
    config = _config_of(folder)
    if DIVERGED in config:
        raise RunError(f"{folder} has no model: {divergence(folder)}; change its settings and run `dvc repro`")
    try:
        model = build(config["architecture"], vocab_size=config["vocab_size"], **config["model"])
    except (VariantError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        told = f"{config['architecture']} cannot be built from its settings ({one_line(error)})"
        raise RunError(f"{folder / CONFIG}: {told}; delete {folder} and run `dvc repro`") from None
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; `dvc repro` makes it") from None
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    if (wanted := config.pop(SUM, None)) is not None and sha256_of(path) != wanted:
        raise RunError(f"{path} is damaged (its sha256 is not that in {CONFIG}); delete it and run `dvc repro`")
    put_into(model, tensors, str(path))
    return model.eval().to(device), config
