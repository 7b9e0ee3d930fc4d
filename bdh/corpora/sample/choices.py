"""Random choices that keep account of their log-probability, and text that remembers what was planted where."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from bdh.corpora.planted import PlantedSpan

T = TypeVar("T")


class Choices:
    """A stream of choices from a seed; `nats` is minus the log-probability of all of them together.

    Only `random.Random.random` is used, whose sequence Python keeps the same between versions.
    """

    def __init__(self, seed: str) -> None:
        """Start the stream that belongs to `seed`."""
        self.nats = 0.0
        self._random = random.Random(seed)

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of `options`, uniformly or in proportion to `weights`."""
        sums = list(itertools.accumulate(weights if weights is not None else itertools.repeat(1.0, len(options))))
        place = bisect.bisect_right(sums, self._random.random() * sums[-1], hi=len(sums) - 1)
        self.nats -= math.log((sums[place] - (sums[place - 1] if place else 0.0)) / sums[-1])
        return options[place]

    def ranked(self, options: Sequence[T], exponent: float = 1.0) -> T:
        """One of `options`, earlier ones likelier: weight 1 / rank^exponent."""
        return self.pick(options, [1.0 / (rank + 1) ** exponent for rank in range(len(options))])

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.pick((True, False), (probability, 1.0 - probability))

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self.pick(range(low, high + 1))

    def several(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in order."""
        left = list(options)
        return [left.pop(self.pick(range(len(left)))) for _ in range(count)]

    def forced(self, probability: float) -> None:
        """Account for something that was settled outside and that a reader could expect with this probability."""
        self.nats -= math.log(probability)


class Text:
    """Text that grows, and the concepts planted in it as UTF-8 byte spans."""

    def __init__(self) -> None:
        """Start without text."""
        self.spans: list[PlantedSpan] = []
        self._parts: list[str] = []
        self._length = 0

    def add(self, text: str, concept: str | None = None) -> None:
        """Append `text`, as an instance of `concept` if one is named."""
        if concept is None:
            self._parts.append(text)
            self._length += len(text.encode("utf-8"))
        else:
            with self.marked(concept):
                self.add(text)

    @contextmanager
    def marked(self, concept: str) -> Iterator[None]:
        """Everything added inside is an instance of `concept`."""
        start = self._length
        yield
        self.spans.append(PlantedSpan(concept, start, self._length))

    def __str__(self) -> str:
        """The text so far."""
        return "".join(self._parts)
