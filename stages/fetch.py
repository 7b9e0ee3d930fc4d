"""Stage `fetch`: the text of one corpus with its provenance."""

from __future__ import annotations

from typing import Annotated

import typer

from bdh.corpora.fetch import fetch_corpus
from bdh.params import corpus_of, load
from bdh.project.errors import reported
from bdh.project.files import RAW


@reported
def main(corpus: Annotated[str, typer.Argument(help="a section of `corpus` in params.yaml")]) -> None:
    """Bring the files of CORPUS into data/raw/CORPUS: mirror, address, own file or generator."""
    fetch_corpus(corpus, corpus_of(load(), corpus), RAW / corpus)


if __name__ == "__main__":
    typer.run(main)
