"""What a row of docs/inputs.json is made of: an input, what must come of it, and how it is tried."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdh.corpora.tokens import SPLITS, TokenCorpus
from bdh.params import Corpus
from bdh.project.errors import HatcheryError
from tests.support import corpus_cases

Try = Callable[[Path], str]


@dataclass(frozen=True)
class Case:
    """`attempt` is given an empty folder and tells what it got; `expected` is that, or with `refused:` a part of it."""

    kind: str
    input: str
    expected: str
    attempt: Try

    def row(self, folder: Path) -> dict[str, Any]:
        """The row of the table; an error of the user must be one line that leaves nothing half-made behind."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                got = self.attempt(folder)
        except HatcheryError as error:
            got = f"refused: {error}"
        except Exception as error:
            got = f"traceback: {type(error).__name__}: {error}"
        got = re.sub(r"/\S*?" + re.escape(folder.name), ".", got.replace(str(folder), "."))
        if self.expected.startswith("refused: "):
            fits = got.startswith("refused: ") and self.expected.removeprefix("refused: ") in got and "\n" not in got
            fits = fits and not list(folder.rglob("*.partial"))
        else:
            fits = got == self.expected
        return {"kind": self.kind, "input": self.input, "expected": self.expected, "got": got, "ok": fits}


def texts_of(corpus: TokenCorpus, split: str) -> list[str]:
    """The documents of a split as text, from their tokens."""
    tokens, rows = corpus.tokens(split), corpus.documents.query("split == @split")
    return [corpus.decode(tokens[a:b]) for a, b in zip(rows.token_start, rows.token_end, strict=True)]


def counts(corpus: TokenCorpus) -> str:
    """Documents, tokens and bytes of every split."""
    told = []
    for split in SPLITS:
        rows = corpus.documents.query("split == @split")
        told.append(f"{split} {len(rows)} documents, {len(corpus.tokens(split))} tokens, {rows.utf8_bytes.sum()} bytes")
    return "; ".join(told)


def whole(corpus: TokenCorpus) -> list[str]:
    """Every document in the order of the splits."""
    return [text for split in SPLITS for text in texts_of(corpus, split)]


def build(folder: Path, section: Corpus) -> TokenCorpus:
    """Fetch and tokenize a section."""
    return corpus_cases.build(folder, section)


def local(path: Path | str | list[str], text: dict[str, Any], **source: Any) -> Corpus:
    """The section of local files; keywords go to the source, `tokenizer` apart."""
    tokenizer = source.pop("tokenizer", {"name": "bytes"})
    path = [str(one) for one in path] if isinstance(path, list) else str(path)
    values = {
        "source": {"kind": "local", "path": path, "licence": "mine"} | source,
        "text": text,
        "tokenizer": tokenizer,
        "scales": corpus_cases.SCALES,
    }
    return Corpus.model_validate(values)


def plain(separator: Any = None, **split: Any) -> dict[str, Any]:
    """Section `text` of plain text."""
    return {"format": "text", "separator": separator, "split": corpus_cases.BY_POSITION | split}


def table(form: str, columns: dict[str, str] | None = None, split: dict[str, Any] | None = None) -> dict[str, Any]:
    """Section `text` of a table, split by position unless told otherwise."""
    return {"format": form, "columns": {"text": "text"} | (columns or {}), "split": split or corpus_cases.BY_POSITION}
