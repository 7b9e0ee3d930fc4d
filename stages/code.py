"""Stage `code`: which source files every stage and variant is made of, and what of its settings does not name it."""

from __future__ import annotations

from bdh.frontier.registry import METRICS
from bdh.params import load
from bdh.project.closure import write_manifests
from bdh.project.errors import reported


@reported
def main() -> None:
    """Write the manifests that the other stages depend on."""
    params = load()
    architectures = {variant: params.architecture_of(variant) for variant in params.variant}
    inherited = {variant: params.inherited_by(variant) for variant in params.variant}
    metrics = [metric.module for metric in METRICS]
    shapes = {
        variant: {corpus: params.shape_of(variant, corpus) for corpus in params.corpora} for variant in params.variants
    }
    write_manifests(architectures, inherited, {"frontier": metrics, "twins": metrics}, shapes)


if __name__ == "__main__":
    main()
