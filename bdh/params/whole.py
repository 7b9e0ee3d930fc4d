"""The whole of params.yaml, and what one run of the comparison takes from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bdh.models.catalog import settings_of
from bdh.params.corpora import Corpus
from bdh.params.section import Count, Name, Scale, Section, suggest
from bdh.params.training import Frontier, FrontierScale, Hebbian, HebbianScale, Overrides, Scales, Train, Variant
from bdh.project.errors import ParamsError


class Params(Section):
    """The whole of params.yaml."""

    scale: Scale
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Count
    corpora: Annotated[list[Name], Field(min_length=1)]
    variants: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    scales: Scales
    corpus: dict[Name, Corpus]
    variant: dict[Name, Variant]
    hebbian: Hebbian
    frontier: Frontier

    def runs(self) -> list[tuple[str, str, int]]:
        """Every run of the comparison as (variant, corpus, seed), in the order of the pipeline."""
        return [(v, c, s) for v in self.variants for c in self.corpora for s in self.seeds]

    def train_of(self, variant: str, corpus: str) -> Train:
        """Optimisation settings of one run: the scale's, overridden by the corpus, then by the variant."""
        merged = getattr(self.scales, self.scale).train.model_dump()
        for overrides in self._overrides(variant, corpus):
            merged |= overrides.train.model_dump(exclude_unset=True)  # type: ignore[attr-defined]
        return Train(**merged)

    def model_of(self, variant: str, corpus: str) -> dict[str, Any]:
        """Settings of one run's model: those of the scale and the corpus that the variant knows, then its own."""
        known = settings_of(variant)
        shared = getattr(self.scales, self.scale).model | self._overrides(variant, corpus)[0].model
        own = [overrides.model for overrides in self._overrides(variant, corpus)[1:]]
        return {k: v for k, v in shared.items() if k in known} | {k: v for model in own for k, v in model.items()}

    def hebbian_scale(self) -> HebbianScale:
        """Size of stage B at the chosen scale."""
        return getattr(self.hebbian, self.scale)

    def frontier_scale(self) -> FrontierScale:
        """Size of the frontier evaluation at the chosen scale."""
        return getattr(self.frontier, self.scale)

    def _overrides(self, variant: str, corpus: str) -> list[Overrides]:
        """What the corpus, then the variant, then the variant at this scale overrides."""
        section = self.variant[variant]
        own = [section] if section.scales is None else [section, getattr(section.scales, self.scale)]
        return [getattr(self.corpus[corpus].scales, self.scale), *own]


def corpus_of(params: Params, name: str) -> Corpus:
    """The section of one corpus; raises ParamsError naming the known ones."""
    if name not in params.corpus:
        raise ParamsError(f"unknown corpus {name!r}; {suggest(name, sorted(params.corpus))}")
    return params.corpus[name]
