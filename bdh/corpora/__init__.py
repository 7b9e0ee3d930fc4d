"""Corpora: sources, sample generators, tokenizers, splits and batches."""
