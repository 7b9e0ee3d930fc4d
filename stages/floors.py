"""Stage `floors`: what counting reaches on the held-out text of one corpus; it depends on no variant."""

from __future__ import annotations

from typing import Annotated

import typer

from bdh.corpora.ngram import floors
from bdh.corpora.tokens import TokenCorpus
from bdh.hebbian import held_out
from bdh.params import load
from bdh.project.errors import reported
from bdh.project.files import RESULTS, TOKENS, write_json


@reported
def main(corpus: Annotated[str, typer.Argument(help="a section of `corpus` in params.yaml")]) -> None:
    """Score the targets of stage hebbian on CORPUS with n-gram models of its training split."""
    size, tokens = load().hebbian_scale(), TokenCorpus.open(TOKENS / corpus)
    validation, test = (held_out.cut(tokens, split, size.window, size.max_tokens) for split in ("validation", "test"))
    write_json(RESULTS / "floors" / f"{corpus}.json", floors(tokens, validation, test))


if __name__ == "__main__":
    typer.run(main)
