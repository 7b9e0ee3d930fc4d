"""Stage B and the frontier metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bdh.params.section import Count, Positive, Section


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
