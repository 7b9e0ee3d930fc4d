"""Generators of the sample corpora: text from a seed, with planted structure and a known entropy."""
