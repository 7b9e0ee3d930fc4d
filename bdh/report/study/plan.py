"""What a study is to hold, and what it holds: its cells, their settings, and which of their results count.

A study is a folder:

    study.yaml             title and cells, in groups: recipe, variants, corpora, seeds
    params.yaml            the settings of all its cells; `recipe` and the axes come from the groups
    <recipe>/reports, data the small results, as git keeps those of a project; origin/<key>.json says of which commit
                           and settings they are; dvc.lock holds the entries of their stages
    summary.json, index.html, results.csv, claims.json, claims.csv    made of them by `bdh study render`

A result counts as long as its settings are those of params.yaml: change a line there, and the cells that it is about
are listed as not run, with that reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from bdh.params import Params, load
from bdh.params.section import Name, Section, explain
from bdh.project.errors import HatcheryError, ParamsError
from bdh.project.files import REPORTS, read_json, run_key

PLAN, PARAMS, SUMMARY = "study.yaml", "params.yaml", "summary.json"
DEFAULT = Path("reports/reference")
STAGES = ("train", "hebbian", "frontier")
NEEDED = {
    "train": ("train/{key}.json", "timing/{key}.json", "history/{key}.csv"),
    "hebbian": ("hebbian/{key}.json",),
    "frontier": ("frontier/{key}.json", "curves/{key}.csv"),
}
"""What the result of a stage consists of: names among the results of a project, and below `reports` of a recipe."""

NOT_RUN = "not run"
IRRELEVANT = {"train.checkpoint_every"}
"""Settings that change no number."""


class StudyError(HatcheryError):
    """A study, or a result for it, is not as it should be."""


class CellGroup(Section):
    """Cells of one recipe: every variant on every corpus from every seed."""

    recipe: Literal["reference", "tuned"]
    variants: Annotated[list[Name], Field(min_length=1)]
    corpora: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class StudyPlan(Section):
    """The whole of study.yaml."""

    title: str
    cells: Annotated[list[CellGroup], Field(min_length=1)]


@dataclass(frozen=True)
class StudyCell:
    """One row of a study: a training and its evaluations."""

    recipe: str
    variant: str
    corpus: str
    seed: int

    @property
    def key(self) -> str:
        """Name of the run within its recipe: `variant-corpus-seed`."""
        return run_key(self.variant, self.corpus, self.seed)

    @property
    def name(self) -> str:
        """Name of the row in the study: `recipe/variant-corpus-seed`."""
        return f"{self.recipe}/{self.key}"

    def axes(self) -> dict[str, Any]:
        """What tells the row from others."""
        return {"variant": self.variant, "corpus": self.corpus, "seed": self.seed, "recipe": self.recipe}


@dataclass(frozen=True)
class Study:
    """A study in its folder: every planned cell once, in the order of the plan, and the settings of all."""

    folder: Path
    title: str
    cells: tuple[StudyCell, ...]
    params: Params

    @property
    def recipes(self) -> list[str]:
        """The recipes of the plan."""
        return list(dict.fromkeys(cell.recipe for cell in self.cells))

    def home(self, recipe: str) -> Path:
        """Where the results of one recipe lie."""
        return self.folder / recipe

    def of(self, recipe: str) -> list[StudyCell]:
        """The cells of one recipe."""
        return [cell for cell in self.cells if cell.recipe == recipe]

    def settings(self, recipe: str, cells: list[StudyCell]) -> Params:
        """params.yaml with the recipe and, as axes, everything that some of `cells` have."""
        axes = {
            "variants": list(dict.fromkeys(cell.variant for cell in cells)),
            "corpora": list(dict.fromkeys(cell.corpus for cell in cells)),
            "seeds": sorted({cell.seed for cell in cells}),
        }
        return self.params.model_copy(update={"recipe": recipe, **axes})

    @cached_property
    def reasons(self) -> dict[StudyCell, dict[str, str]]:
        """By cell and stage why there is no result that counts; empty where there is one."""
        return {cell: self._reasons(cell) for cell in self.cells}

    def done(self, cell: StudyCell) -> list[str]:
        """Stages of a cell whose results count."""
        return [stage for stage, reason in self.reasons[cell].items() if not reason]

    def origin(self, cell: StudyCell) -> dict[str, Any]:
        """Commit and settings of the results of a cell by stage; {} where there are none."""
        path = self.home(cell.recipe) / "origin" / f"{cell.key}.json"
        return read_json(path) if path.exists() else {}

    def _reasons(self, cell: StudyCell) -> dict[str, str]:
        try:
            wanted = settings_of(self.settings(cell.recipe, [cell]), cell)
        except ParamsError as error:
            return dict.fromkeys(STAGES, str(error).partition(";")[0])
        found: dict[str, str] = {}
        origin, home = self.origin(cell), self.home(cell.recipe)
        for stage in STAGES:
            if found.get("train"):
                found[stage] = found["train"]
            elif stage not in origin or not all(
                (home / REPORTS / n.format(key=cell.key)).exists() for n in NEEDED[stage]
            ):
                found[stage] = NOT_RUN
            else:
                odd = contradictions(origin[stage]["settings"], wanted[stage])
                found[stage] = f"run with other settings: {odd[0]}" if odd else ""
        return found


def load_study(folder: Path = DEFAULT) -> Study:
    """Read plan and params of a study; StudyError or ParamsError with the place of the first mistake."""
    path = folder / PLAN
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path} is missing; a study is a folder with {PLAN} and {PARAMS}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not readable YAML: {error}") from None
    try:
        plan = StudyPlan.model_validate(raw)
    except ValidationError as error:
        raise StudyError(f"{path}: {explain(error, StudyPlan)}") from None
    params = load(folder / PARAMS)
    cells = tuple(dict.fromkeys(_cells(plan)))
    for cell in cells:
        for kind, name, known in (("variant", cell.variant, params.variant), ("corpus", cell.corpus, params.corpus)):
            if name not in known:
                raise StudyError(f"{path}: {kind} {name!r} has no section in {folder / PARAMS}")
    return Study(folder, plan.title, cells, params)


def _cells(plan: StudyPlan) -> Iterator[StudyCell]:
    for group in plan.cells:
        for corpus in group.corpora:
            for variant in group.variants:
                for seed in group.seeds:
                    yield StudyCell(group.recipe, variant, corpus, seed)


def settings_of(params: Params, cell: StudyCell) -> dict[str, dict[str, Any]]:
    """By stage every setting that may change the result of a cell, by dotted name, as plain JSON values."""
    corpus = params.corpus[cell.corpus]
    train = {f"train.{k}": v for k, v in params.train_of(cell.variant, cell.corpus).model_dump().items()}
    train |= {f"model.{k}": v for k, v in params.model_of(cell.variant, cell.corpus).items()}
    train |= {"architecture": params.architecture_of(cell.variant), "precision": params.precision}
    train |= {f"corpus.{cell.corpus}.{part}": getattr(corpus, part).model_dump() for part in ("text", "tokenizer")}
    found = {"train": {k: v for k, v in train.items() if k not in IRRELEVANT}}
    for stage in ("hebbian", "frontier"):
        section = getattr(params, stage).model_dump(exclude={"laptop", "gpu"})
        section |= {params.scale: getattr(getattr(params, stage), params.scale).model_dump()}
        found[stage] = {f"{stage}.{name}": value for name, value in section.items()}
    return json.loads(json.dumps(found, default=str))


def contradictions(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Settings that both name and that differ, each as `train.steps was 200, the study says 3000`."""
    return [
        f"{name} was {had[name]!r}, the study says {wanted[name]!r}"
        for name in wanted
        if name in had and had[name] != wanted[name]
    ]
