"""Small held-out texts and models for the tests of stage B and of the frontier metrics."""

import numpy as np
import pandas as pd

from bdh.hebbian.held_out import HeldOut
from bdh.models.base import build

VOCAB = 41


def held_out(lengths=(70, 33, 9, 50), window=16, seed=0, vocab=VOCAB, bytes_per_token=None) -> HeldOut:
    """Documents of `lengths` tokens with a Markov chain of their own each, so that what was read helps later."""
    generator = np.random.default_rng(seed)
    pieces, document, positions = [], [], []
    for row, length in enumerate(lengths):
        words = generator.integers(0, vocab, (6, 5))
        tokens = words[generator.integers(0, 6, length // 5 + 1)].reshape(-1)[:length]
        for start in range(0, length - 1, window):
            stop = min(start + window, length - 1)
            pieces.append((tokens[start:stop], tokens[start + 1 : stop + 1]))
            document.append(row)
            positions.append(np.arange(start + 1, stop + 1))
    targets = np.concatenate([target for _, target in pieces])
    size = generator.integers(1, 6, vocab) if bytes_per_token is None else bytes_per_token
    return HeldOut(
        inputs=np.concatenate([inputs for inputs, _ in pieces]).astype(np.int64),
        targets=targets.astype(np.int64),
        bounds=np.concatenate([[0], np.cumsum([len(inputs) for inputs, _ in pieces])]),
        document=np.array(document),
        position=np.concatenate(positions),
        token_bytes=size[targets].astype(np.int64),
        documents=pd.DataFrame(
            {
                "id": [f"d{row}" for row in range(len(lengths))],
                "symbol": pd.Series([None] * len(lengths), dtype="string"),
                "sector": pd.Series(["Energy", None, "Health Care", "Energy"] * len(lengths), dtype="string")[
                    : len(lengths)
                ],
                "year": pd.Series([2019 + row % 2 for row in range(len(lengths))], dtype="Int64"),
            }
        ),
        window=window,
    )


def small_bdh(seed=0, vocab=VOCAB, scale=6.0, **shape):
    """A `bdh` with weights large enough that its context matters."""
    shape = {"n_layer": 2, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.1} | shape
    model = build("bdh", vocab_size=vocab, seed=seed, **shape)
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return model
