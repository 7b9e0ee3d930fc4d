"""Stage `code`: which source files every stage and every variant is made of."""

from __future__ import annotations

from bdh.models.catalog import known_variants
from bdh.project.closure import write_manifests
from bdh.project.errors import reported


@reported
def main() -> None:
    """Write the manifests that the other stages depend on."""
    variants = known_variants()
    write_manifests({name: name for name in variants}, {name: {} for name in variants}, {})


if __name__ == "__main__":
    main()
