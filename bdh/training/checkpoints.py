"""The folder of a trained run: `model.safetensors` and `config.json`, everything needed to build the model again.

A model's weights as a flat dict of tensors and back; tied weights are kept once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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


def are_finite(model: nn.Module) -> bool:
    """False when any weight is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_of(model).values() if tensor.is_floating_point())


WEIGHTS = "model.safetensors"
CONFIG = "config.json"
NEEDED = ("variant", "architecture", "vocab_size", "corpus", "seed", "model")


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


def load_run(folder: Path, device: str | torch.device = "cpu") -> tuple[LanguageModel, dict[str, Any]]:
    """The model of a run in eval mode on `device`, and its config; RunError when the run is missing or damaged."""
    config = read_json(folder / CONFIG)
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
