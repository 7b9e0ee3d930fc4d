"""Hatchery: a reproducible comparison of Baby Dragon Hatchling language models."""

__version__ = "0.1.0"
