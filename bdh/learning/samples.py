"""Texts that a trained model writes, so that one can see what it has learned."""

from __future__ import annotations

from itertools import islice

import numpy as np

from bdh.corpora.tokens import TokenCorpus
from bdh.generation import generate
from bdh.models.base import LanguageModel

SAMPLES = 3
PROMPT_TOKENS = 48
NEW_TOKENS = 160
TEMPERATURE = 0.8
TOP_K = 50


def write_samples(model: LanguageModel, corpus: TokenCorpus, seed: int) -> list[dict[str, str]]:
    """`{"prompt", "text"}` of SAMPLES continuations of evenly spaced places of the validation split.

    A function of weights, corpus and seed: the same run writes the same texts.
    """
    tokens = corpus.tokens("validation")
    length = min(PROMPT_TOKENS, len(tokens))
    starts = np.linspace(0, len(tokens) - length, SAMPLES).astype(int)
    samples = []
    for number, start in enumerate(starts):
        prompt = [int(token) for token in tokens[start : start + length]]
        written = generate(model, prompt, NEW_TOKENS, temperature=TEMPERATURE, top_k=TOP_K, seed=seed + number)
        samples.append({"prompt": corpus.decode(prompt), "text": corpus.decode(list(islice(written, NEW_TOKENS)))})
    return samples
