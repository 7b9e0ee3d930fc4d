"""The processes of one training and what they tell each other outside of the gradients.

Everything here goes through the CPU (gloo), so asking never waits for a GPU's queue. What all ranks must agree on is
gathered and reduced in the order of the ranks on every one of them, so all see the same bits and take the same branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from bdh.params import Train
from bdh.project.errors import HatcheryError, ParamsError
from bdh.project.processes import Stop

R = TypeVar("R")


class ElsewhereError(HatcheryError):
    """Rank 0 failed at what it does for all, and says why."""


class ProcessGroup:
    """`size` processes that train one model; this one is number `rank`, and only rank 0 writes.

    `stopping` is the signal that some rank was asked to stop by, 0 when none was, as of the last exchange.
    `failing` says that all ranks raise the same error now, so rank 0 is enough to report it.
    `handle` is torch's process group for gradients, `control` the one for CPU tensors; None is the default group.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, stop: Stop | None = None, handle: Any = None, control: Any = None
    ) -> None:
        self.rank, self.size, self.stop = rank, size, stop
        self.handle, self.control = handle, control
        self.stopping = 0
        self.failing = False

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """Which streams of a batch of `batch_size` are this rank's."""
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, tensor: Tensor) -> Tensor:
        """A CPU tensor of every rank, (W, ...) in the order of the ranks."""
        if self.size == 1:
            return tensor[None]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(found, tensor.contiguous(), group=self.control)
        return torch.stack(found)

    def mean(self, values: list[float]) -> list[float]:
        """The mean of every value over the ranks (NaN when one of them is); also exchanges who was asked to stop."""
        if self.size == 1:
            return values
        return [total / self.size for total in self.sum(values)]

    def sum(self, values: list[float]) -> list[float]:
        """The sum of every value over the ranks; also exchanges who was asked to stop."""
        if self.size == 1:
            return values
        asked = 0 if self.stop is None or self.stop.requested is None else int(self.stop.requested)
        gathered = self.gather(torch.tensor([asked, *values], dtype=torch.float64))
        self.stopping = max(self.stopping, int(gathered[:, 0].max()))
        total = gathered[0, 1:].clone()
        for row in gathered[1:, 1:]:
            total += row
        return total.tolist()

    def asked_to_stop(self, stop: Stop) -> bool:
        """Whether to end now: all ranks answer alike, from the last exchange; a signal to one of them stops all."""
        if self.size == 1:
            return stop.requested is not None
        if self.stopping and stop.requested is None:
            stop.request(self.stopping)
        return bool(self.stopping)

    def share(self, data: bytes | None) -> bytes:
        """The bytes that rank 0 gives, on every rank."""
        if self.size == 1:
            return data or b""
        length = torch.tensor([len(data or b"")])
        torch.distributed.broadcast(length, 0, group=self.control)
        content = torch.frombuffer(bytearray(data or bytes(int(length)) or b"\0"), dtype=torch.uint8)
        torch.distributed.broadcast(content, 0, group=self.control)
        return content.numpy().tobytes()[: int(length)]

    def lead(self, work: Callable[[], R]) -> R | None:
        """Do `work` on rank 0 alone and return what it returns there, None elsewhere.

        A HatcheryError of rank 0 is raised on every rank, as ElsewhereError on the others.
        """
        if self.size == 1:
            return work()
        result, failure = None, None
        if self.first:
            try:
                result = work()
            except HatcheryError as error:
                failure = error
        told = self.share(str(failure).encode() if failure is not None else None)
        if failure is not None or told:
            self.failing = True
            raise failure or ElsewhereError(told.decode())
        return result

    def seed(self, seed: int, step: int) -> None:
        """Give ranks above 0 random streams of their own (dropout masks) from `seed` and `step`; rank 0 keeps its."""
        if not self.first:
            torch.manual_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1)[0]))


ALONE = ProcessGroup()


def check_batch(settings: Train, size: int) -> None:
    """Raise ParamsError when the streams of a step cannot be shared equally by `size` ranks and the micro-batches."""
    parts = size * settings.accumulate
    if settings.batch_size % parts:
        raise ParamsError(
            f"train.batch_size: {settings.batch_size} streams cannot be split evenly over {size} devices x "
            f"{settings.accumulate} accumulated micro-batches; use a multiple of {parts}, or change train.devices or "
            "train.accumulate"
        )
