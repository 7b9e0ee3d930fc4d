"""The folder of a trained run: `model.safetensors` and `config.json`, everything needed to build the model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bdh.errors import RunError
from bdh.files import read_json, replacing, write_json
from bdh.learning.weights import copy_of, put_into
from bdh.models.base import LanguageModel, build

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
NEEDED = ("variant", "vocab_size", "corpus", "seed", "model")


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
    model = build(config["variant"], vocab_size=config["vocab_size"], **config["model"])
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; `dvc repro` makes it") from None
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    put_into(model, tensors, str(path))
    return model.eval().to(device), config
