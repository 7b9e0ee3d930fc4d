"""Shape and optimisation: `scales`, and what corpora and variants override."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, create_model

from bdh.params.section import Count, Fraction, NonNegative, Positive, Section, Switch


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
