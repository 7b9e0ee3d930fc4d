"""Invented names: of people, of places, and words without a meaning."""

from __future__ import annotations

from bdh.corpora.sample.choices import Choices

FIRST = ("Bel", "Cor", "Dar", "Fen", "Gal", "Hes", "Jor", "Kel", "Lom", "Mar", "Nev", "Os", "Per", "Quil", "Ros", "Sab")
SECOND = (
    "adin",
    "bric",
    "cova",
    "drel",
    "emon",
    "fira",
    "gwen",
    "hald",
    "iska",
    "jorn",
    "kesh",
    "lune",
    "mira",
    "nott",
)
PLACES = ("Varnholt", "Ellismere", "Tollgate", "Quenby", "Drossford", "Highmarl", "Pellway", "Sunder Bay")
SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za")
PEOPLE = tuple(first + second for first in FIRST for second in SECOND)
SURNAMES = tuple(f"{second.capitalize()}{end}" for second in SECOND for end in ("son", "er", "ley", "wick"))


def listed(words: str) -> tuple[str, ...]:
    """Words of a text, in order."""
    return tuple(words.split())


def nonsense(choices: Choices) -> str:
    """A word of four random syllables, one of 65,536: nothing but its own repetition makes it likely."""
    return "".join(choices.pick(SYLLABLES) for _ in range(4))
