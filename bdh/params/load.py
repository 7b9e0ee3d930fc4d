"""Reading params.yaml, and what types cannot say: names that must exist and settings that a variant must know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bdh.models.catalog import known_architectures, settings_of
from bdh.params.section import explain, suggest
from bdh.params.whole import Params
from bdh.project.errors import ParamsError

FILE = Path("params.yaml")


def load(path: Path = FILE, values: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml, with `values` (by dotted name) in the place of what it says there.

    Raises ParamsError with the dotted path, the value and what is allowed, for the first mistake.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path.absolute()} is missing; run from the folder that holds params.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds no mapping of keys to values")
    for dotted, value in (values or {}).items():
        *sections, last = dotted.split(".")
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain(error, Params)}") from None
    _check_names(params, path)
    _check_presets(params, path)
    _check_model_keys(params, path)
    return params


def _check_names(params: Params, path: Path) -> None:
    for axis, names, sections in (
        ("corpora", params.corpora, sorted(params.corpus)),
        ("variants", params.variants, sorted(params.variant)),
    ):
        for name in names:
            if name not in sections:
                kind = "corpus" if axis == "corpora" else "variant"
                raise ParamsError(f"{path}: {axis}: unknown {kind} {name!r}; {suggest(name, sections)}")
        if len(set(names)) < len(names):
            raise ParamsError(f"{path}: {axis}: a name stands twice in {names}")


def _check_presets(params: Params, path: Path) -> None:
    for name, section in params.variant.items():
        where = f"{path}: variant.{name}"
        if section.of is not None and name in known_architectures():
            raise ParamsError(f"{where}.of: {name} is an architecture itself; give the preset another name")
        if section.without is not None and section.only is not None:
            raise ParamsError(f"{where}: both `without` and `only` are given; an ablation is one of the two")
        try:
            params.sections_of(name)
        except ParamsError as error:
            raise ParamsError(f"{path}: {error}") from None


def _check_model_keys(params: Params, path: Path) -> None:
    every_known = {key for variant in params.variant for key in settings_of(params.architecture_of(variant))}
    shared = {f"scales.{name}": getattr(params.scales, name).model for name in ("laptop", "gpu")}
    for corpus, section in params.corpus.items():
        for name in ("laptop", "gpu"):
            shared[f"corpus.{corpus}.scales.{name}"] = getattr(section.scales, name).model
    for where, model in shared.items():
        for key in model:
            if key not in every_known:
                raise ParamsError(f"{path}: {where}.model.{key}: unknown key; {suggest(key, sorted(every_known))}")
    for variant, overrides in params.variant.items():
        own = {"model": overrides.model}
        if overrides.scales is not None:
            own |= {f"scales.{name}.model": getattr(overrides.scales, name).model for name in ("laptop", "gpu")}
        known = settings_of(params.architecture_of(variant))
        for part, model in own.items():
            for key, value in model.items():
                where = f"{path}: variant.{variant}.{part}.{key}"
                if key not in known:
                    raise ParamsError(f"{where}: unknown key; {suggest(key, sorted(known))}")
                if not _fits(value, known[key].annotation):
                    raise ParamsError(f"{where}: expected {known[key].annotation}, it is {value!r}")


def _fits(value: Any, annotation: str) -> bool:
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    allowed = tuple(t for part in annotation.split("|") for t in wanted.get(part.strip(), ()))
    return isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
