"""Where each corpus of params.yaml could be taken from now: made here, fetched before, a mirror, the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from bdh.corpora.fetch import MIRROR
from bdh.files import RAW
from bdh.params import Corpus, GeneratedSource, Gpt2Tokenizer, LocalSource, Params, SourceFile

PATIENCE_S = 3.0
Row = tuple[Literal["ok", "note", "problem"], str, str, str]


def corpus_checks(params: Params) -> Iterator[Row]:
    """One row per corpus section (state, name, how it is, what to do); only a chosen corpus can be a problem."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(_where, params.corpus.items())
        for name, (place, missing) in zip(params.corpus, found, strict=True):
            chosen = name in params.corpora
            title = f"corpus {name}{'' if chosen else ' (not chosen)'}"
            if not missing:
                yield "ok", title, place, ""
            else:
                yield (
                    "problem" if chosen else "note",
                    title,
                    f"cannot be reached: {missing}",
                    _way_out(params.corpus[name]),
                )


def _way_out(corpus: Corpus) -> str:
    if isinstance(corpus.source, LocalSource):
        return "put the file there, or change source.path in params.yaml"
    return f"set {MIRROR} to a folder or URL that holds it, or connect to the network"


def _where(section: tuple[str, Corpus]) -> tuple[str, str]:
    """(where the corpus comes from, what cannot be reached)."""
    name, corpus = section
    source, files = corpus.source, files_of(corpus)
    if (RAW / name).is_dir():
        return f"fetched: {RAW / name}", ""
    if isinstance(source, LocalSource):
        path = Path(source.path).expanduser()
        return (f"local: {path}", "") if path.is_file() else ("", str(path.absolute()))
    places = {file.path: _place(file) for file in files}
    if lost := [path for path, place in places.items() if place is None]:
        return "", ", ".join(lost)
    made = ["generated here"] if isinstance(source, GeneratedSource) else []
    return ", ".join(dict.fromkeys([*made, *(place for place in places.values() if place)])), ""


def files_of(corpus: Corpus) -> list[SourceFile]:
    """The files that a corpus and its tokenizer are downloaded as."""
    tokenizer = corpus.tokenizer
    files = [] if isinstance(corpus.source, GeneratedSource | LocalSource) else list(corpus.source.files)
    return files + ([tokenizer.vocab, tokenizer.merges] if isinstance(tokenizer, Gpt2Tokenizer) else [])


def _place(file: SourceFile) -> str | None:
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if mirror and _in_mirror(f"{mirror}/{file.path}"):
        return f"mirror {mirror}"
    return "network" if file.url and _answers(file.url) else None


def _in_mirror(address: str) -> bool:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        return bool(system.exists(path))
    except Exception:  # every fsspec backend raises its own
        return False


def _answers(url: str) -> bool:
    import requests

    try:
        return requests.head(url, timeout=PATIENCE_S, allow_redirects=True).ok
    except requests.RequestException:
        return False
