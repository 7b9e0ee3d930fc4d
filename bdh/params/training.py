"""Settings of the stages that compute: shape and optimisation with what overrides them, stage B, frontier metrics.

And of the search of settings (`bdh tune`): one written space for every variant, and what it chose.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, create_model, model_validator

from bdh.params.section import Count, Fraction, Name, NonNegative, Positive, Section, Switch


def _share_of_steps(share: float) -> float:
    if not 0.0 < share <= 1.0:
        raise ValueError(
            "this is a share of train.steps without a new best, above 0 and at most 1 (1: never stop early), "
            "no longer a number of validations; for n of them give n * validate_every / steps"
        )
    return share


class Train(Section):
    """Optimisation of one run; units stand beside the keys in params.yaml."""

    steps: Count
    batch_size: Annotated[int, Field(ge=1, le=2**20)]
    window: Annotated[int, Field(ge=2, le=2**24)]
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)]
    final_learning_rate: Fraction
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)]
    weight_decay: NonNegative
    beta1: Fraction
    beta2: Fraction
    gradient_clip: Positive
    l1: NonNegative
    l21: NonNegative
    average_decay: Fraction
    validate_every: Count
    validation_windows: Count
    patience: Annotated[float, AfterValidator(_share_of_steps)]
    checkpoint_every: Count
    learning_rule: Literal["backprop", "hebbian", "hybrid"]
    regime: Literal["none", "readout", "full"]
    compile: Switch
    kernel: Literal["auto", "plain", "fused"] = "auto"
    graphs: Switch = "auto"
    devices: Count | Literal["all"] = 1
    accumulate: Count = 1
    refit: bool = False
    init_from: Annotated[str, Field(min_length=1)] | None = None
    carry: bool = False
    carry_damping: Annotated[float, Field(gt=0.0, le=1.0)] = 0.99
    carry_windows: Annotated[int, Field(ge=2, le=10**6)] = 16


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

    model: ModelKeys = Field(default_factory=dict)
    train: TrainOverrides = Field(default_factory=TrainOverrides)  # type: ignore[valid-type]


class Scales(Section):
    """Defaults at every scale."""

    laptop: ScaleDefaults
    gpu: ScaleDefaults


class OverridesByScale(Section):
    """What a corpus or a variant overrides at each scale."""

    laptop: Overrides
    gpu: Overrides


class Variant(Overrides):
    """One section of `variant`: how it differs from the scale, or from the section that it is a preset `of`.

    of: a section or an architecture whose settings are inherited (None: the section's name is its architecture).
    family: what the claims count the variant to. without, only: the mechanism of an ablation; at most one is given.
    model and train hold at every scale, `scales` (which wins over both) at one of them.
    """

    of: Name | None = None
    family: Name | None = None
    without: Name | None = None
    only: Name | None = None
    scales: OverridesByScale | None = None


class HebbianScale(Section):
    """Size of stage B at one scale."""

    window: Annotated[int, Field(ge=2, le=2**24)]
    max_tokens: Count


def _known_move(share: float) -> float:
    if share not in (0.5, 0.25):
        raise ValueError("windows are moved by 0.5 or 0.25 of their length")
    return share


class Hebbian(Section):
    """Stage B."""

    damping: Annotated[float, Field(gt=0.0, le=1.0)]
    damping_sweep: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(max_length=8)]
    overlaps: list[Annotated[float, AfterValidator(_known_move)]]
    eta: Positive
    snapshot_every: Count
    bootstrap: Annotated[int, Field(ge=1, le=10**6)]
    laptop: HebbianScale
    gpu: HebbianScale


class FrontierScale(Section):
    """Size of the frontier evaluation at one scale."""

    max_tokens: Count


class Report(Section):
    """Rules of the comparison page."""

    smallest_effect: Positive


class Frontier(Section):
    """Frontier metrics."""

    top_share: Annotated[float, Field(gt=0.0, lt=1.0)]
    communities: Literal["louvain", "leiden"]
    restarts: Count
    graph_nulls: Annotated[int, Field(ge=2, le=10**6)]
    null_draws: Annotated[int, Field(ge=20, le=10**6)]
    bootstrap: Annotated[int, Field(ge=20, le=10**6)]
    twins: Count
    jobs: Count | Literal["auto"] = "auto"
    laptop: FrontierScale
    gpu: FrontierScale


Number = int | float


class Span(Section):
    """Numbers from `low` to `high`, spread evenly, or evenly in their logarithm."""

    low: Positive
    high: Positive
    spread: Literal["even", "logarithmic"]

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, they are {self.low} and {self.high}")
        return self


class OneOf(Section):
    """One of some values, all equally likely."""

    choices: Annotated[list[int | float | bool | str], Field(min_length=1)]


def _kind_of_dimension(value: Any) -> str:
    return "OneOf" if isinstance(value, OneOf) or (isinstance(value, dict) and "choices" in value) else "Span"


Dimension = Annotated[Annotated[Span, Tag("Span")] | Annotated[OneOf, Tag("OneOf")], Discriminator(_kind_of_dimension)]


class Space(Section):
    """What is searched: keys of `model` and `train`; a variant that lacks a key goes without that dimension."""

    model: dict[str, Dimension]
    train: dict[str, Dimension]

    @model_validator(mode="after")
    def _known(self) -> Space:
        unknown = sorted(set(self.train) - set(Train.model_fields))
        if unknown:
            raise ValueError(f"train.{unknown[0]}: unknown key; allowed: {', '.join(Train.model_fields)}")
        for name, values in self.train.items():
            for value in (values.low, values.high) if isinstance(values, Span) else values.choices:
                whole = isinstance(value, float) and value.is_integer()
                try:
                    TrainOverrides.model_validate({name: int(value) if whole else value})
                except ValidationError as error:
                    raise ValueError(f"train.{name}: {value!r}: {error.errors()[0]['msg']}") from None
        return self


class TuneScale(Section):
    """The search at one scale: the space and the settings tried per variant and corpus, first those of `reference`."""

    draws: Annotated[int, Field(ge=2, le=10**6)]
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
