"""What every part of params.yaml is made of: closed sections and the types of their values."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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
