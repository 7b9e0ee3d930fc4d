"""Numbers of one arm from the surprisal of every scored token: totals, strata, differences to the static arm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bdh.metrics.intervals import percentiles
from bdh.plasticity.held_out import HeldOut

FEW_DOCUMENTS = 8
BLOCK = 1024
LARGEST_EXPONENT = 700.0
NUMBERS = (
    "nats_per_token", "bits_per_byte", "perplexity", "difference_to_static", "ci_low", "ci_high", "bootstrap_unit",
    "bootstrap_units", "tokens", "bytes", "documents", "by_year", "by_sector", "by_position",
)  # fmt: skip


def cannot_run(reason: str) -> dict[str, Any]:
    """The entry of an arm that a variant cannot run: every number null, and why."""
    return dict.fromkeys(NUMBERS) | {"reason": reason}


def arm_report(nats: np.ndarray, static: np.ndarray, text: HeldOut, *, resamplings: int, seed: int = 0) -> dict:
    """Everything that is said about one arm; see `totals` for the units.

    difference_to_static is in bits per byte, below zero where the arm is better, with the 95 % interval of a paired
    bootstrap over documents - or over blocks of 1024 tokens where fewer than 8 documents were read.
    """
    unit, unit_of_token = bootstrap_units(text)
    low, high = paired_interval(nats, static, text, unit_of_token, resamplings=resamplings, seed=seed)
    rows = text.token_document
    return {
        **totals(nats, static, text, np.ones(text.scored, dtype=bool)),
        "ci_low": low,
        "ci_high": high,
        "bootstrap_unit": unit,
        "bootstrap_units": int(unit_of_token.max()) + 1,
        "documents": len(text.documents),
        "by_year": _strata(nats, static, text, text.documents["year"], rows),
        "by_sector": _strata(nats, static, text, text.documents["sector"], rows),
        "by_position": by_position(nats, static, text),
    }


def totals(nats: np.ndarray, static: np.ndarray, text: HeldOut, chosen: np.ndarray) -> dict[str, Any]:
    """Nats per token, bits per byte (total nats / ln 2 / UTF-8 bytes), perplexity, difference in bits per byte."""
    tokens, size = int(chosen.sum()), int(text.token_bytes[chosen].sum())
    total = float(nats[chosen].sum())
    per_byte = 1.0 / (math.log(2) * size) if size else None
    return {
        "nats_per_token": total / tokens,
        "bits_per_byte": None if per_byte is None else total * per_byte,
        "perplexity": math.exp(min(total / tokens, LARGEST_EXPONENT)),
        "difference_to_static": None if per_byte is None else (total - float(static[chosen].sum())) * per_byte,
        "tokens": tokens,
        "bytes": size,
    }


def bootstrap_units(text: HeldOut, block: int = BLOCK) -> tuple[str, np.ndarray]:
    """Name of the unit that is resampled and the unit of every scored token (P): documents, or blocks of tokens."""
    if len(text.documents) >= FEW_DOCUMENTS:
        return "document", text.token_document
    blocks = (text.position - 1) // block
    labels = text.token_document * (1 + int(blocks.max())) + blocks
    return f"block of {block} tokens", np.unique(labels, return_inverse=True)[1]


def paired_interval(
    nats: np.ndarray, static: np.ndarray, text: HeldOut, unit: np.ndarray, *, resamplings: int, seed: int
) -> tuple[float | None, float | None]:
    """95 % interval of the difference in bits per byte, both arms resampled together; None with a single unit."""
    extra = np.bincount(unit, weights=nats - static)
    size = np.bincount(unit, weights=text.token_bytes)
    if extra.size < 2:
        return None, None
    chosen = np.random.default_rng(seed).integers(0, extra.size, (resamplings, extra.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentiles(extra[chosen].sum(1) / size[chosen].sum(1) / math.log(2))


def _strata(
    nats: np.ndarray, static: np.ndarray, text: HeldOut, labels: pd.Series, rows: np.ndarray
) -> dict[str, dict]:
    found = {}
    for label in sorted(labels.dropna().unique()):
        members = (labels == label).fillna(False).to_numpy(dtype=bool)
        name = str(int(label)) if isinstance(label, (int, float, np.number)) else str(label)
        found[name] = totals(nats, static, text, members[rows]) | {"documents": int(members.sum())}
    return found


def by_position(nats: np.ndarray, static: np.ndarray, text: HeldOut) -> list[dict[str, Any]]:
    """Totals in buckets of the position in the document that double in width: [1,2), [2,4), [4,8), ..."""
    bucket = np.floor(np.log2(text.position)).astype(int)
    found = []
    for exponent in range(int(bucket.max()) + 1):
        chosen = bucket == exponent
        if chosen.any():
            span = {"from": 2**exponent, "to": 2 ** (exponent + 1)}
            found.append(span | totals(nats, static, text, chosen))
    return found


def document_table(nats_by_arm: dict[str, np.ndarray], text: HeldOut) -> pd.DataFrame:
    """One row per document and arm: arm, id, symbol, sector, year, tokens, bytes, nats."""
    rows, count = text.token_document, len(text.documents)
    tokens = np.bincount(rows, minlength=count)
    size = np.bincount(rows, weights=text.token_bytes, minlength=count).astype(np.int64)
    tables = []
    for arm, nats in nats_by_arm.items():
        table = text.documents.copy()
        table.insert(0, "arm", arm)
        table["tokens"], table["bytes"] = tokens, size
        table["nats"] = np.bincount(rows, weights=nats, minlength=count)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def unit_table(nats_by_arm: dict[str, np.ndarray], text: HeldOut) -> pd.DataFrame:
    """One row per unit of the bootstrap and arm: arm, kind (document or block), id of the unit, tokens, bytes, nats.

    The same text gives the same units to every model, so that models can be compared in pairs.
    """
    kind, unit = bootstrap_units(text)
    tokens = np.bincount(unit)
    size = np.bincount(unit, weights=text.token_bytes).astype(np.int64)
    tables = []
    for arm, nats in nats_by_arm.items():
        row = {"arm": arm, "kind": kind, "id": np.arange(tokens.size), "tokens": tokens, "bytes": size}
        tables.append(pd.DataFrame(row | {"nats": np.bincount(unit, weights=nats)}))
    return pd.concat(tables, ignore_index=True)


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a stage B report that stand beside the run in the tracker, those that exist."""
    found: dict[str, float] = {}
    for name, arm in report["arms"].items():
        for number in ("bits_per_byte", "nats_per_token", "perplexity", "difference_to_static"):
            if arm[number] is not None:
                found[f"{name}/{number}"] = arm[number]
    found |= {f"density/{tap}": entry["mean"] for tap, entry in report["density"].items()}
    found |= {f"state/{name}": value for name, value in report["state"].items() if value is not None}
    return found
