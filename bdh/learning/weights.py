"""A model's weights as a flat dict of tensors and back; tied weights are kept once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdh.errors import RunError


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
