"""Variants of the shipped params.yaml as models for tests: an architecture with the settings that its sections give."""

from pathlib import Path

from bdh.models.base import LanguageModel, architecture_module, build
from bdh.models.catalog import known_architectures
from bdh.params import load

SHIPPED = load(Path(__file__).resolve().parents[2] / "params.yaml")
KINDS = (*known_architectures(), "recurrent_trained", "neuro_trained", "neuro_multiscale", "neuro_none", "slim_frozen")
"""Every architecture as published, and the presets whose behaviour differs in kind."""


def preset_of(variant: str) -> tuple[str, dict]:
    """The architecture of a variant and the settings of its model; an architecture without a section has none."""
    if variant not in SHIPPED.variant:
        return variant, {}
    return SHIPPED.architecture_of(variant), SHIPPED.preset_of(variant)


def model_of(variant: str, *, vocab_size: int, seed: int = 0, **settings: object) -> LanguageModel:
    """A variant with `settings` in the place of its own."""
    architecture, own = preset_of(variant)
    return build(architecture, vocab_size=vocab_size, seed=seed, **(own | settings))


def tiny(variant: str, *, vocab_size: int, seed: int = 0, **settings: object) -> LanguageModel:
    """A variant of a few thousand parameters; a core that is trained through time is so over 8 tokens."""
    architecture, own = preset_of(variant)
    short = {"truncation": 8} if own.get("truncation") else {}
    small = architecture_module(architecture).TINY | own | short
    return build(architecture, vocab_size=vocab_size, seed=seed, **(small | settings))
