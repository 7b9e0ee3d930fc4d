"""Numbers of one arm from the surprisal of every scored token: totals, strata, differences to `static` and `overlap`.

Strata are years, sectors, roles of speakers, places in the document and the window; intervals are over units of text.
P scored tokens, U units of the bootstrap, K strata of one kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bdh.hebbian.held_out import HeldOut
from bdh.intervals import ratio_interval, too_few

BLOCK = 1024
FEW_DOCUMENTS = 8
KINDS = ("by_year", "by_sector", "by_role", "by_position", "by_window")
ABSENT = {
    "by_year": "the corpus names no year of its documents",
    "by_sector": "the corpus names no sector of its documents",
    "by_role": "the corpus names no speakers",
}
LN2 = math.log(2.0)
LARGEST_EXPONENT = 700.0
SCORES = (
    "nats_per_token", "bits_per_byte", "bits_low", "bits_high", "perplexity", "difference_to_static", "ci_low",
    "ci_high", "difference_to_overlap", "overlap_low", "overlap_high", "bootstrap_unit", "bootstrap_units", "tokens",
    "bytes", "documents",
)  # fmt: skip
NUMBERS = (*SCORES, *KINDS)
STATIC = ("difference_to_static", "ci_low", "ci_high")
OVERLAP = ("difference_to_overlap", "overlap_low", "overlap_high")
QUARTERS = 4


@dataclass(frozen=True)
class Strata:
    """The strata of one kind. labels: K. unit: what is resampled.

    cell_P: the place of every token in a U x K table, -1 where it belongs to no stratum. tokens_UK, bytes_UK: what the
    units hold. documents_K: documents with a token in each stratum.
    """

    labels: list[str]
    unit: str
    units: int
    cell_P: np.ndarray
    tokens_UK: np.ndarray
    bytes_UK: np.ndarray
    documents_K: np.ndarray

    def sums(self, values_P: np.ndarray) -> np.ndarray:
        """Sums of a value per token over the tokens of every unit and stratum (U,K)."""
        return _sums(self.cell_P, values_P, self.units, len(self.labels))


def bootstrap_units(text: HeldOut, block: int = BLOCK) -> tuple[str, np.ndarray]:
    """Name of the unit that is resampled and the unit of every scored token (P).

    Documents, or blocks of 1024 tokens where fewer than 8 documents were read.
    """
    if len(text.documents) >= FEW_DOCUMENTS:
        return "document", text.token_document
    blocks = (text.position - 1) // block
    labels = text.token_document * (1 + int(blocks.max())) + blocks
    return f"block of {block} tokens", np.unique(labels, return_inverse=True)[1]


def whole_text(text: HeldOut) -> Strata:
    """All tokens as one stratum."""
    return _strata(text, ["all"], np.zeros(text.scored, dtype=np.int64))


def strata_of(text: HeldOut, kind: str) -> Strata:
    """Strata of one of `KINDS`; without labels where the corpus has none (see `ABSENT`).

    Positions fall into buckets that double in width: [1,2), [2,4), [4,8), ...; places in the static window (0 is its
    first input) into quarters of it. The label is the bucket's start.
    """
    if kind == "by_window":
        starts = [-(-quarter * text.window // QUARTERS) for quarter in range(QUARTERS)]
        code_P = (text.position - 1) % text.window * QUARTERS // text.window
        return _strata(text, [str(start) for start in starts], code_P)
    if kind == "by_position":
        code_P = np.floor(np.log2(text.position)).astype(np.int64)
        return _strata(text, [str(2**exponent) for exponent in range(int(code_P.max()) + 1)], code_P)
    if kind == "by_role":
        return _strata(text, list(text.roles), text.role)
    labels = text.documents[kind.removeprefix("by_")]
    known = sorted(labels.dropna().unique())
    code_by_label = {label: code for code, label in enumerate(known)}
    code_D = np.array([code_by_label.get(label, -1) if label is not None else -1 for label in labels.astype(object)])
    return _strata(text, [_name(label) for label in known], code_D[text.token_document])


def _name(label: object) -> str:
    return str(int(label)) if isinstance(label, (int, float, np.number)) else str(label)


def _strata(text: HeldOut, labels: list[str], code_P: np.ndarray | None) -> Strata:
    unit, unit_P = bootstrap_units(text)
    units, K = int(unit_P.max()) + 1, len(labels)
    code_P = np.full(text.scored, -1) if code_P is None else code_P
    cell_P = np.where(code_P >= 0, unit_P * K + code_P, -1)
    present = np.unique(np.stack([text.token_document, code_P])[:, code_P >= 0], axis=1)
    return Strata(
        labels=labels,
        unit=unit,
        units=units,
        cell_P=cell_P,
        tokens_UK=_sums(cell_P, np.ones(text.scored), units, K),
        bytes_UK=_sums(cell_P, text.token_bytes, units, K),
        documents_K=np.bincount(present[1], minlength=K),
    )


def _sums(cell_P: np.ndarray, values_P: np.ndarray, units: int, K: int) -> np.ndarray:
    inside = cell_P >= 0
    return np.bincount(cell_P[inside], weights=values_P[inside], minlength=units * K).reshape(units, K)


def cannot_run(reason: str) -> dict[str, Any]:
    """The entry of an arm that a variant cannot run: every number null, and why."""
    return dict.fromkeys(NUMBERS) | {"reason": reason}


class Scores:
    """Reports of arms over one text, all against the same arms static and overlap; strata are laid out once."""

    def __init__(
        self,
        text: HeldOut,
        static: np.ndarray,
        resamplings: int,
        seed: int = 0,
        *,
        overlap: np.ndarray | None = None,
    ) -> None:
        """static, overlap (P): surprisal of every scored token in these arms, in nats; without `overlap` nothing is
        compared with it."""
        self.references = {STATIC: static} | ({} if overlap is None else {OVERLAP: overlap})
        self.resamplings, self.seed, self.window = resamplings, seed, text.window
        self.whole = whole_text(text)
        self.strata = {kind: strata_of(text, kind) for kind in KINDS}

    def arm(self, nats: np.ndarray) -> dict[str, Any]:
        """Everything that is said about one arm, in SCORES of the whole text and of every stratum.

        bits_low, bits_high: 95 % bootstrap interval of the bits per byte. difference_to_static: in bits per byte, below
        zero where the arm is better, with the 95 % interval of a paired bootstrap over documents - or over blocks of
        1024 tokens where fewer than 8 documents were read. With fewer than 8 such units in a stratum its difference
        and intervals are null and `reason` says so; an arm that predicts exactly like static differs by exactly 0.
        difference_to_overlap, overlap_low, overlap_high: the same against windows moved by a half, so that what a
        carried state adds can be told from what the border of a window takes away; `by_window` says where it does.
        """
        report = self.total(nats)
        for kind in KINDS:
            strata = self.strata[kind]
            rows = self._entries(strata, nats)
            if kind in ("by_position", "by_window"):
                starts = [int(label) for label in strata.labels]
                ends = [*starts[1:], 2 * starts[-1] if kind == "by_position" else self.window]
                report[kind] = [
                    {"from": start, "to": end} | row
                    for start, end in zip(starts, ends, strict=True)
                    if (row := rows.get(str(start)))
                ]
            else:
                report[kind] = rows
        return report

    def total(self, nats: np.ndarray) -> dict[str, Any]:
        """SCORES of the whole text."""
        return self._entries(self.whole, nats)["all"]

    def _entries(self, strata: Strata, nats: np.ndarray) -> dict[str, dict[str, Any]]:
        nats_UK = strata.sums(nats)
        extra_UK = {
            names: None if np.array_equal(nats, other) else nats_UK - strata.sums(other)
            for names, other in self.references.items()
        }
        return {
            label: self._entry(
                strata, k, nats_UK[:, k], {n: None if x is None else x[:, k].copy() for n, x in extra_UK.items()}
            )
            for k, label in enumerate(strata.labels)
            if strata.documents_K[k]
        }

    def _entry(
        self, strata: Strata, k: int, nats_U: np.ndarray, extra_U: dict[tuple[str, str, str], np.ndarray | None]
    ) -> dict[str, Any]:
        """`extra_U`: nats beyond each reference, by the names of its numbers; None where every token costs the same."""
        there = strata.tokens_UK[:, k] > 0
        tokens, bytes_U = int(strata.tokens_UK[:, k].sum()), strata.bytes_UK[there, k]
        found = dict.fromkeys(SCORES) | score(float(nats_U.sum()), tokens, int(bytes_U.sum()))
        found |= {"documents": int(strata.documents_K[k])}
        found |= {"bootstrap_unit": strata.unit, "bootstrap_units": int(there.sum())}
        reason = (
            too_few(int(there.sum()), strata.unit) if found["bytes"] else "not measurable: the tokens have no bytes"
        )
        if reason is None:
            found["bits_low"], found["bits_high"] = self._interval(nats_U[there], bytes_U)
        for names, extra in extra_U.items():
            if extra is None and found["bytes"]:
                found |= dict.fromkeys(names, 0.0)
            elif extra is not None and reason is None:
                value = float(extra.sum() / LN2 / found["bytes"])
                found |= zip(names, (value, *self._interval(extra[there], bytes_U)), strict=True)
        return found | ({"reason": reason} if reason is not None and found[STATIC[0]] is None else {})

    def _interval(self, nats_U: np.ndarray, bytes_U: np.ndarray) -> tuple[float | None, float | None]:
        return ratio_interval(nats_U / LN2, bytes_U, resamplings=self.resamplings, seed=self.seed)


def score(nats: float, tokens: int, size: int) -> dict[str, Any]:
    """Nats per token, bits per byte (total nats / ln 2 / UTF-8 bytes), perplexity; tokens and bytes beside them."""
    return {
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / LN2 / size if size else None,
        "perplexity": math.exp(min(nats / tokens, LARGEST_EXPONENT)),
        "tokens": tokens,
        "bytes": size,
    }


def totals(nats: np.ndarray, static: np.ndarray, text: HeldOut, chosen: np.ndarray) -> dict[str, Any]:
    """`score` of the `chosen` tokens (P), and their plain difference to static in bits per byte."""
    found = score(float(nats[chosen].sum()), int(chosen.sum()), int(text.token_bytes[chosen].sum()))
    extra = float(nats[chosen].sum() - static[chosen].sum())
    return found | {"difference_to_static": extra / LN2 / found["bytes"] if found["bytes"] else None}


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
