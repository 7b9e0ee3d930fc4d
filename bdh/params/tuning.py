"""The search of settings: one written space for every variant, and what it chose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bdh.params.section import Count, Section
from bdh.params.training import Overrides, Train

Number = int | float


class Span(Section):
    """Numbers from `low` to `high`, spread evenly, or evenly in their logarithm."""

    low: Annotated[float, Field(gt=0.0)]
    high: Annotated[float, Field(gt=0.0)]
    spread: Literal["even", "logarithmic"]

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, they are {self.low} and {self.high}")
        return self


class Choices(Section):
    """One of some values, all equally likely."""

    choices: Annotated[list[int | float | bool | str], Field(min_length=1)]


Dimension = Span | Choices


class Space(Section):
    """What is searched: keys of `model` and `train`; a variant that lacks a key goes without that dimension."""

    model: dict[str, Dimension]
    train: dict[str, Dimension]

    @model_validator(mode="after")
    def _known(self) -> Space:
        unknown = sorted(set(self.train) - set(Train.model_fields))
        if unknown:
            raise ValueError(f"train.{unknown[0]}: unknown key; allowed: {', '.join(Train.model_fields)}")
        return self


class TuneScale(Section):
    """The search at one scale: the space and the settings tried per variant and corpus, first those of `reference`."""

    draws: Annotated[int, Field(ge=2)]
    space: Space


class Tune(Section):
    """`bdh tune`."""

    seed: Count | Literal[0]
    laptop: TuneScale
    gpu: TuneScale


TunedByVariant = dict[str, Overrides]
TunedByCorpus = dict[str, TunedByVariant]


class Tuned(Section):
    """What the search chose, by corpus and variant, at every scale."""

    laptop: TunedByCorpus
    gpu: TunedByCorpus
