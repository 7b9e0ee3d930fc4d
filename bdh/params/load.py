"""Reading params.yaml, and what types cannot say: names that must exist and settings that a variant must know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML, YAMLError

from bdh.models.catalog import known_architectures, settings_of
from bdh.params.section import explain, suggest
from bdh.params.whole import Params
from bdh.project.errors import ParamsError, one_line

FILE = Path("params.yaml")
DEEPEST = 50


def load(path: Path = FILE, values: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml, with `values` (by dotted name) in the place of what it says there.

    Raises ParamsError with the dotted path, the value and what is allowed, for the first mistake.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        _check_depth(text)
        raw = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise ParamsError(f"{path.absolute()} is missing; run from the folder that holds params.yaml") from None
    except OSError as error:
        raise ParamsError(
            f"{path.absolute()} cannot be read ({one_line(error)}); it should be a file of yours"
        ) from None
    except (YAMLError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is not readable YAML: {_told(error, text)}") from None
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


def _check_depth(text: str) -> None:
    """Raise ValueError where sections lie so deep in each other that reading them would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            place = event.start_mark.line + 1 if event.start_mark else 1
            raise ValueError(f"line {place}: more than {DEEPEST} sections lie in each other")


def _told(error: Exception, text: str) -> str:
    """What is wrong and where; git's conflict markers are named as such."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            return f"line {number}: git's conflict markers; keep one side of each and delete the markers"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return one_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {one_line(ValueError(problem))}"


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
    for where, numbers in (("seeds", params.seeds), ("hebbian.overlaps", params.hebbian.overlaps)):
        if len(set(numbers)) < len(numbers):
            raise ParamsError(f"{path}: {where}: a number stands twice in {numbers}")


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
    settings = [settings_of(params.architecture_of(variant)) for variant in params.variant]
    every_known = {key for known in settings for key in known}
    shared = {f"scales.{name}": getattr(params.scales, name).model for name in ("laptop", "gpu")}
    for corpus, section in params.corpus.items():
        for name in ("laptop", "gpu"):
            shared[f"corpus.{corpus}.scales.{name}"] = getattr(section.scales, name).model
    for where, model in shared.items():
        for key in model:
            if key not in every_known:
                raise ParamsError(f"{path}: {where}.model.{key}: unknown key; {suggest(key, sorted(every_known))}")
            kinds = sorted({known[key].annotation for known in settings if key in known})
            if not any(_fits(model[key], kind) for kind in kinds):
                raise ParamsError(f"{path}: {where}.model.{key}: expected {kinds[0]}, it is {model[key]!r}")
            _check_range(f"{path}: {where}.model.{key}", key, model[key])
    for variant, overrides in params.variant.items():
        own = {"model": overrides.model}
        if overrides.scales is not None:
            own |= {f"scales.{name}.model": getattr(overrides.scales, name).model for name in ("laptop", "gpu")}
        known = settings_of(params.architecture_of(variant))
        for scale in ("laptop", "gpu"):
            chosen = getattr(params.tuned, scale).items()
            there = [(corpus, by[variant]) for corpus, by in chosen if variant in by]
            own |= {f"tuned.{scale}.{corpus}.{variant}.model": found.model for corpus, found in there}
        for part, model in own.items():
            for key, value in model.items():
                where = f"{path}: {part if part.startswith('tuned.') else f'variant.{variant}.{part}'}.{key}"
                if key not in known:
                    raise ParamsError(f"{where}: unknown key; {suggest(key, sorted(known))}")
                if not _fits(value, known[key].annotation):
                    raise ParamsError(f"{where}: expected {known[key].annotation}, it is {value!r}")
                _check_range(where, key, value)


SIZES = {"n_layer", "n_embd", "n_head", "n", "d", "depth", "width", "heads", "block_size", "window", "gate_rank"}
SIZES |= {"mlp_internal_dim_multiplier", "feed_forward_multiplier"}
SHARES = {"dropout", "spike_rate"}
RANGES: dict[str, tuple[float, float]] = dict.fromkeys(SIZES, (1, 2**24))
RANGES |= dict.fromkeys(("u_decay", "x_decay", "k_wta", "local_forget_eta", "threshold_ratio"), (0, 1))
LARGEST = {int: 2**31, float: 1e9}


def _check_range(where: str, key: str, value: Any) -> None:
    """Raise ParamsError for a setting of a model that is no finite number of a size that it can have."""
    if isinstance(value, bool | str):
        return
    low, high = RANGES.get(key, (-LARGEST[type(value)], LARGEST[type(value)]))
    if key in SHARES:
        fits, told = 0 <= value < 1, ">= 0, < 1"
    else:
        fits, told = low <= value <= high, f">= {low}, <= {high}"
    if not fits:
        raise ParamsError(f"{where}: {value!r} cannot be meant; allowed: {told}")


def _fits(value: Any, annotation: str) -> bool:
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    allowed = tuple(t for part in annotation.split("|") for t in wanted.get(part.strip(), ()))
    return isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
