"""How the scored tokens fall into strata (year, sector, place in the document, role of the speaker) and units of text.

P scored tokens, U units of the bootstrap, K strata of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdh.plasticity.held_out import HeldOut

BLOCK = 1024
FEW_DOCUMENTS = 8
KINDS = ("by_year", "by_sector", "by_role", "by_position")
ABSENT = {
    "by_year": "the corpus names no year of its documents",
    "by_sector": "the corpus names no sector of its documents",
    "by_role": "the corpus names no speakers",
}


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

    Positions fall into buckets that double in width: [1,2), [2,4), [4,8), ...; the label is the bucket's start.
    """
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
