"""The whole of params.yaml, and what one run of the comparison takes from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from bdh.models.catalog import known_architectures, settings_of
from bdh.params.corpora import Corpus
from bdh.params.section import Name, Scale, Section, suggest
from bdh.params.training import (
    Frontier,
    FrontierScale,
    Hebbian,
    HebbianScale,
    Overrides,
    Report,
    Scales,
    Train,
    Tune,
    Tuned,
    Variant,
)
from bdh.project.errors import ParamsError

WINDOW_SETTINGS = ("block_size", "window")
"""Settings of a model that are the training window unless params.yaml gives them."""


class Params(Section):
    """The whole of params.yaml."""

    scale: Scale
    recipe: Literal["reference", "tuned"]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    corpora: Annotated[list[Name], Field(min_length=1)]
    variants: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]
    scales: Scales
    corpus: dict[Name, Corpus]
    variant: dict[Name, Variant]
    hebbian: Hebbian
    frontier: Frontier
    tune: Tune
    tuned: Tuned
    report: Report

    def runs(self) -> list[tuple[str, str, int]]:
        """Every run of the comparison as (variant, corpus, seed), in the order of the pipeline."""
        return [(v, c, s) for v in self.variants for c in self.corpora for s in self.seeds]

    def architecture_of(self, variant: str) -> str:
        """The architecture (a file of bdh/models) that a variant is made of.

        This and what follows raises ParamsError for a variant without a section, for an `of` that names nothing and
        for presets that go round in a circle.
        """
        *_, last = self.sections_of(variant)
        return self.variant[last].of or last

    def family_of(self, variant: str) -> str:
        """What the claims count a variant to: the nearest `family` that is given, else the architecture."""
        given = (self.variant[name].family for name in self.sections_of(variant))
        return next((family for family in given if family is not None), self.architecture_of(variant))

    def ablation_of(self, variant: str) -> tuple[Literal["without", "only"], str] | None:
        """Whether the variant lacks one mechanism or has a single one, and which; None for no ablation.

        It is never inherited: a preset of an ablation differs from what was ablated in more than the mechanism.
        """
        self.sections_of(variant)
        section = self.variant[variant]
        if section.without is not None:
            return "without", section.without
        return None if section.only is None else ("only", section.only)

    def sections_of(self, variant: str) -> list[str]:
        """Sections that a variant is made of: its own, the one that it is a preset `of`, and so on."""
        if variant not in self.variant:
            raise ParamsError(f"unknown variant {variant!r}; {suggest(variant, sorted(self.variant))}")
        names = [variant]
        while (parent := self.variant[names[-1]].of) in self.variant:
            assert parent is not None
            if parent in names:
                raise ParamsError(f"variant.{variant}.of: presets go round in a circle: {', '.join([*names, parent])}")
            names.append(parent)
        last, known = names[-1], known_architectures()
        if parent is None and last not in known:
            raise ParamsError(
                f"variant.{last}: bdh/models/{last}.py does not exist and the section names nothing in `of`; "
                f"{suggest(last, list(known))}"
            )
        if parent is not None and parent not in known:
            hint = suggest(parent, sorted({*known, *self.variant}))
            raise ParamsError(f"variant.{last}.of: {parent!r} is neither a section nor an architecture; {hint}")
        return names

    def train_of(self, variant: str, corpus: str) -> Train:
        """Optimisation settings of one run: the scale's, overridden by the corpus, then by the variant's sections."""
        merged = getattr(self.scales, self.scale).train.model_dump()
        for overrides in [getattr(self.corpus[corpus].scales, self.scale), *self._own(variant, corpus)]:
            merged |= overrides.train.model_dump(exclude_unset=True)
        return Train(**merged)

    def model_of(self, variant: str, corpus: str) -> dict[str, Any]:
        """Every setting of one run's model, in the order of its Config.

        Its default, overridden by the training window (WINDOW_SETTINGS), by what scale and corpus say, and by the
        variant's own sections.
        """
        known = settings_of(self.architecture_of(variant))
        shared = getattr(self.scales, self.scale).model | getattr(self.corpus[corpus].scales, self.scale).model
        model = {name: setting.default for name, setting in known.items()}
        model |= {name: self.train_of(variant, corpus).window for name in WINDOW_SETTINGS if name in known}
        model |= {name: value for name, value in shared.items() if name in known}
        for overrides in self._own(variant, corpus):
            model |= overrides.model
        return model

    def shape_of(self, variant: str, corpus: str) -> dict[str, Any] | None:
        """`model_of`, None where the recipe has no settings for the run yet."""
        chosen = getattr(self.tuned, self.scale).get(corpus, {})
        return None if self.recipe == "tuned" and variant not in chosen else self.model_of(variant, corpus)

    def preset_of(self, variant: str) -> dict[str, Any]:
        """Settings of the model that the variant's sections give for every scale: what makes it this preset."""
        return {k: v for name in reversed(self.sections_of(variant)) for k, v in self.variant[name].model.items()}

    def inherited_by(self, variant: str) -> dict[str, Any]:
        """What a preset inherits, by section: every key that bears on a training, as it is given in params.yaml."""
        found = {
            name: self.variant[name].model_dump(include={"of", "model", "train", "scales"}, exclude_unset=True)
            for name in self.sections_of(variant)[1:]
        }
        if self.recipe == "tuned":
            chosen = getattr(self.tuned, self.scale)
            tuned = {corpus: self._chosen(variant, corpus) for corpus in chosen}
            found["tuned"] = {c: one.model_dump(exclude_unset=True) for c, one in tuned.items() if one is not None}
        return found

    def searchable(self, variant: str, corpus: str) -> bool:
        """Whether the variant trains anything that settings could be searched for."""
        return self.model_copy(update={"recipe": "reference"}).train_of(variant, corpus).regime != "none"

    def with_settings(self, variant: str, corpus: str, chosen: Overrides) -> Params:
        """The same with recipe `tuned` switched on and `chosen` as what it gives the variant on the corpus."""
        of_scale = getattr(self.tuned, self.scale)
        corpora = of_scale | {corpus: of_scale.get(corpus, {}) | {variant: chosen}}
        return self.model_copy(update={"recipe": "tuned", "tuned": self.tuned.model_copy(update={self.scale: corpora})})

    def hebbian_scale(self) -> HebbianScale:
        """Size of stage B at the chosen scale."""
        return getattr(self.hebbian, self.scale)

    def frontier_scale(self) -> FrontierScale:
        """Size of the frontier evaluation at the chosen scale."""
        return getattr(self.frontier, self.scale)

    def _own(self, variant: str, corpus: str) -> list[Overrides]:
        """What a variant overrides, the weakest first: its sections for all scales and at this one, then its recipe."""
        found: list[Overrides] = []
        for section in (self.variant[name] for name in reversed(self.sections_of(variant))):
            found += [section] if section.scales is None else [section, getattr(section.scales, self.scale)]
        return found if self.recipe == "reference" else [*found, self._tuned(variant, corpus)]

    def _tuned(self, variant: str, corpus: str) -> Overrides:
        """What the search chose, nothing for a variant that trains nothing; ParamsError where it has not been made."""
        chosen = self._chosen(variant, corpus)
        if chosen is None and not self.searchable(variant, corpus):
            return Overrides()
        if chosen is None:
            raise ParamsError(
                f"recipe: tuned.{self.scale}.{corpus} has no settings for {variant}; "
                f"`bdh tune {variant} --corpus {corpus}` finds them, recipe: reference goes without"
            )
        return chosen

    def _chosen(self, variant: str, corpus: str) -> Overrides | None:
        """What the search chose for a variant, or else for the nearest section that it is made of; None without.

        A control or an ablation without a search of its own thus keeps the settings of what it is compared with.
        """
        named = getattr(self.tuned, self.scale).get(corpus, {})
        return next((named[section] for section in self.sections_of(variant) if section in named), None)


def corpus_of(params: Params, name: str) -> Corpus:
    """The section of one corpus; raises ParamsError naming the known ones."""
    if name not in params.corpus:
        raise ParamsError(f"unknown corpus {name!r}; {suggest(name, sorted(params.corpus))}")
    return params.corpus[name]


def named_settings(
    variant: str, architecture: str, corpus: str, seed: int, train: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of one training by dotted name, as a run records them; `train` and `model` have every key."""
    named = {f"train.{name}": value for name, value in train.items()}
    named |= {f"model.{name}": value for name, value in model.items()}
    return named | {"variant": variant, "architecture": architecture, "corpus": corpus, "seed": seed}
