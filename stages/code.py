"""Stage `code`: which source files every stage and every variant is made of, and which settings a preset inherits."""

from __future__ import annotations

from bdh.params import load
from bdh.project.closure import write_manifests
from bdh.project.errors import reported


@reported
def main() -> None:
    """Write the manifests that the other stages depend on."""
    params = load()
    architectures = {variant: params.architecture_of(variant) for variant in params.variant}
    write_manifests(architectures, {variant: params.inherited_by(variant) for variant in params.variant})


if __name__ == "__main__":
    main()
