"""Stage `tokenize`: documents, splits and token shards of one corpus."""

from __future__ import annotations

from typing import Annotated

import typer

from bdh.corpora.build import tokenize_corpus
from bdh.params import corpus_of, load
from bdh.project.errors import reported
from bdh.project.files import RAW, TOKENS


@reported
def main(corpus: Annotated[str, typer.Argument(help="a section of `corpus` in params.yaml")]) -> None:
    """Tokenize data/raw/CORPUS into data/tokens/CORPUS."""
    tokenize_corpus(corpus, corpus_of(load(), corpus), RAW / corpus, TOKENS / corpus)


if __name__ == "__main__":
    typer.run(main)
