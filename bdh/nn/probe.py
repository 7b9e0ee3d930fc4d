"""Watch activations without changing any signature: models call `tap`, which is the identity unless someone listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Listener = Callable[[str, int, Tensor], None]
_listeners: list[Listener] = []


def tap(name: str, layer: int, tensor: Tensor) -> Tensor:
    """Show `tensor` to the listeners under `name` (x_sparse, y_sparse, xy_sparse: B,H,T,N) and return it unchanged."""
    if not torch.compiler.is_compiling():
        for listener in _listeners:
            listener(name, layer, tensor)
    return tensor


def watched() -> bool:
    """Whether anyone listens, for what costs too much to compute for nobody."""
    return bool(_listeners) and not torch.compiler.is_compiling()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener(name, layer, tensor)` for every activation tapped inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
