"""params.yaml: every key typed and checked in one place; a mistake names its dotted path and what is allowed."""

from __future__ import annotations

import datetime
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from bdh.errors import ParamsError, one_line
from bdh.models.catalog import known_variants, settings_of

FILE = Path("params.yaml")
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Scale = Literal["laptop", "gpu"]
Switch = Annotated[  # `dvc exp run -S` drops the quotes, and YAML reads a bare off as false
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value),
]
Day = Annotated[
    datetime.date, BeforeValidator(lambda day: datetime.date.fromisoformat(day) if isinstance(day, str) else day)
]


class Section(BaseModel):
    """A mapping whose keys are all known and present."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Train(Section):
    """Optimisation of one run; units stand beside the keys in params.yaml."""

    steps: Count
    batch_size: Count
    window: Annotated[int, Field(ge=2)]
    learning_rate: Positive
    final_learning_rate: Fraction
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: NonNegative
    beta1: Fraction
    beta2: Fraction
    gradient_clip: Positive
    l1: NonNegative
    l21: NonNegative
    average_decay: Fraction
    validate_every: Count
    validation_windows: Count
    patience: Count
    checkpoint_every: Count
    learning_rule: Literal["backprop", "hebbian", "hybrid"]
    regime: Literal["none", "readout", "full"]
    compile: Switch
    kernel: Literal["auto", "plain", "fused"] = "auto"
    devices: Count | Literal["all"] = 1
    accumulate: Count = 1


TrainOverrides = create_model(  # type: ignore[call-overload]
    "TrainOverrides",
    __base__=Section,
    **{name: (field.rebuild_annotation(), None) for name, field in Train.model_fields.items()},
)
ModelKeys = dict[str, int | float | bool | str]


class ScaleDefaults(Section):
    """Shape and optimisation at one scale."""

    model: ModelKeys
    train: Train


class Overrides(Section):
    """Keys of `model` and `train` that differ from the scale's."""

    model: ModelKeys
    train: TrainOverrides  # type: ignore[valid-type]


class Scales(Section):
    """Defaults at every scale."""

    laptop: ScaleDefaults
    gpu: ScaleDefaults


class OverridesByScale(Section):
    """What a corpus or a variant overrides at each scale."""

    laptop: Overrides
    gpu: Overrides


class Variant(Overrides):
    """Keys that differ from the scale's, at every scale and (`scales`, which wins) at one of them."""

    scales: OverridesByScale | None = None


class GeneratedSource(Section):
    """A corpus that this project makes from a seed."""

    kind: Literal["generated"]
    generator: Literal["plays", "calls"]
    seed: int
    documents: Count


class SourceFile(Section):
    """One file of a download: its path in a mirror, its https address and the sha256 of every accepted version.

    `url` is None where no public address has the file. `url_pinned` false says that the sha256 of what the address
    serves is not known beforehand: any is accepted from there, recorded and warned about; a mirror stays pinned.
    """

    path: str
    url: Annotated[str, Field(pattern=r"^https://")] | None
    url_pinned: bool = True
    sha256: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(min_length=1)]
    licence: str


class DownloadSource(Section):
    """Files from a mirror (BDH_CORPORA_MIRROR) or from pinned https addresses."""

    kind: Literal["download"]
    files: Annotated[list[SourceFile], Field(min_length=1)]


class LocalSource(Section):
    """A file of the user's own."""

    kind: Literal["local"]
    path: str
    licence: str


class SplitByPosition(Section):
    """Train, validation, test in the order of the file; whole documents when there are several."""

    by: Literal["position"]
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]


class SplitByDate(Section):
    """Documents up to a day train, later ones test; the last of the training documents validate."""

    by: Literal["date"]
    train_until: Day
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]


Split = Annotated[SplitByPosition | SplitByDate, Field(discriminator="by")]


class SeparatorPattern(Section):
    """A regular expression for what stands between documents."""

    pattern: Annotated[str, Field(min_length=1)]


class PlainText(Section):
    """UTF-8 text; `separator` (literal, or a pattern) stands between documents, None means one document."""

    format: Literal["text"]
    separator: Annotated[str, Field(min_length=1)] | SeparatorPattern | None
    split: SplitByPosition


class Columns(Section):
    """Which column of a parquet file holds what; None where the file has none."""

    text: str
    turns: str | None
    symbol: str | None
    company: str | None
    sector: str | None
    date: str | None
    year: str | None
    quarter: str | None


class ParquetText(Section):
    """A parquet file with one document per row."""

    format: Literal["parquet"]
    columns: Columns
    sectors: str | None
    keep_sectors: list[str]
    split: Split


class ByteTokenizer(Section):
    """UTF-8 bytes, vocabulary 256."""

    name: Literal["bytes"]


class CharacterTokenizer(Section):
    """Unicode characters of the training split."""

    name: Literal["characters"]


class Gpt2Tokenizer(Section):
    """The GPT-2 byte-level BPE, vocabulary 50,257, from two pinned files."""

    name: Literal["gpt2"]
    vocab: SourceFile
    merges: SourceFile


class BpeTokenizer(Section):
    """Byte-level BPE trained on the training split."""

    name: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=257)]


Source = Annotated[GeneratedSource | DownloadSource | LocalSource, Field(discriminator="kind")]
Text = Annotated[PlainText | ParquetText, Field(discriminator="format")]
Tokenizer = Annotated[ByteTokenizer | CharacterTokenizer | Gpt2Tokenizer | BpeTokenizer, Field(discriminator="name")]


class Corpus(Section):
    """One corpus: source, documents and splits, tokenizer, overrides by scale."""

    source: Source
    text: Text
    tokenizer: Tokenizer
    scales: OverridesByScale


class HebbianScale(Section):
    """Size of stage B at one scale."""

    window: Annotated[int, Field(ge=2)]
    max_tokens: Count


class Hebbian(Section):
    """Stage B."""

    damping: Annotated[float, Field(gt=0.0, le=1.0)]
    damping_sweep: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(max_length=8)]
    eta: Positive
    snapshot_every: Count
    bootstrap: Count
    laptop: HebbianScale
    gpu: HebbianScale


class FrontierScale(Section):
    """Size of the frontier evaluation at one scale."""

    max_tokens: Count


class Frontier(Section):
    """Frontier metrics."""

    top_share: Annotated[float, Field(gt=0.0, lt=1.0)]
    communities: Literal["louvain", "leiden"]
    restarts: Count
    graph_nulls: Annotated[int, Field(ge=2)]
    null_draws: Annotated[int, Field(ge=20)]
    bootstrap: Annotated[int, Field(ge=20)]
    twins: Count
    laptop: FrontierScale
    gpu: FrontierScale


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


def load(path: Path = FILE) -> Params:
    """Read and check params.yaml.

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
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error)}") from None
    _check_names(params, path)
    _check_model_keys(params, path)
    return params


def corpus_of(params: Params, name: str) -> Corpus:
    """The section of one corpus; raises ParamsError naming the known ones."""
    if name not in params.corpus:
        raise ParamsError(f"unknown corpus {name!r}; {_suggest(name, sorted(params.corpus))}")
    return params.corpus[name]


def _explain(error: ValidationError) -> str:
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; {_suggest(str(first['loc'][-1]), _keys_at(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{path}: this key is missing"
    value = "" if isinstance(first["input"], dict) else f" (it is {first['input']!r})"
    return f"{path}: {one_line(ValueError(first['msg']))}{value}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Keys allowed in the section at `location`; a part that is the tag of a union picks one of its members."""
    candidates: list[Any] = [Params]
    for part in location:
        inside = [field.annotation for c in candidates for name, field in c.model_fields.items() if name == part]
        candidates = _sections(inside) if inside else candidates
    return sorted({name for c in candidates for name in c.model_fields})


def _sections(annotations: list[Any]) -> list[type[Section]]:
    found: list[type[Section]] = []
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            found.append(annotation)
        else:
            found += _sections(list(getattr(annotation, "__args__", ())))
    return found


def _suggest(name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}allowed: {', '.join(allowed)}"


def _check_names(params: Params, path: Path) -> None:
    for axis, names, sections in (
        ("corpora", params.corpora, sorted(params.corpus)),
        ("variants", params.variants, sorted(params.variant)),
    ):
        for name in names:
            if name not in sections:
                kind = "corpus" if axis == "corpora" else "variant"
                raise ParamsError(f"{path}: {axis}: unknown {kind} {name!r}; {_suggest(name, sections)}")
        if len(set(names)) < len(names):
            raise ParamsError(f"{path}: {axis}: a name stands twice in {names}")
    for name in params.variant:
        if name not in known_variants():
            hint = _suggest(name, list(known_variants()))
            raise ParamsError(f"{path}: variant.{name}: bdh/models/{name}.py does not exist; {hint}")


def _check_model_keys(params: Params, path: Path) -> None:
    every_known = {key for variant in params.variant for key in settings_of(variant)}
    shared = {f"scales.{name}": getattr(params.scales, name).model for name in ("laptop", "gpu")}
    for corpus, section in params.corpus.items():
        for name in ("laptop", "gpu"):
            shared[f"corpus.{corpus}.scales.{name}"] = getattr(section.scales, name).model
    for where, model in shared.items():
        for key in model:
            if key not in every_known:
                raise ParamsError(f"{path}: {where}.model.{key}: unknown key; {_suggest(key, sorted(every_known))}")
    for variant, overrides in params.variant.items():
        own = {"model": overrides.model}
        if overrides.scales is not None:
            own |= {f"scales.{name}.model": getattr(overrides.scales, name).model for name in ("laptop", "gpu")}
        known = settings_of(variant)
        for part, model in own.items():
            for key, value in model.items():
                where = f"{path}: variant.{variant}.{part}.{key}"
                if key not in known:
                    raise ParamsError(f"{where}: unknown key; {_suggest(key, sorted(known))}")
                if not _fits(value, known[key].annotation):
                    raise ParamsError(f"{where}: expected {known[key].annotation}, it is {value!r}")


def _fits(value: Any, annotation: str) -> bool:
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    allowed = tuple(t for part in annotation.split("|") for t in wanted.get(part.strip(), ()))
    return isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
