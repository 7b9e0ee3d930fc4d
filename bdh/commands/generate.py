"""`bdh generate RUN`: a text continued by a trained model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from bdh.project.errors import RunError
from bdh.project.files import RUNS, TOKENS, enter_root

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
LONGEST_SIGN = 8


def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Key such as bdh-sample_plays-0, or the folder of a run.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "\n",
    tokens: Annotated[int, typer.Option(help="Number of tokens to write.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.", min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample among that many likeliest tokens; 0: among all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0)] = 0,
) -> None:
    """Continue a text with a trained model, written out token by token; memory does not grow with the length."""
    folder = find_run(run, enter_root())
    import torch

    from bdh.corpora.tokens import TokenCorpus
    from bdh.generation import continue_text
    from bdh.project.device import choose_device
    from bdh.training.checkpoints import load_run

    model, config = load_run(folder, choose_device("auto", torch.get_num_threads()))
    corpus = TokenCorpus.open(TOKENS / config["corpus"])
    start = corpus.encode(prompt)
    if not start:
        raise RunError("the prompt is empty; give at least one sign with --prompt")
    ids = continue_text(model, start, tokens, temperature, top_k or None, seed)
    for piece in (prompt, *pieces(corpus.decode, ids), "\n"):
        sys.stdout.write(piece)
        sys.stdout.flush()


def find_run(name: str, here: Path) -> Path:
    """Folder of a run given by key or by path (relative to `here`); an unknown one lists those that exist."""
    for folder in (RUNS / name, here / name):
        if (folder / "config.json").is_file():
            return folder
    known = sorted(path.parent.name for path in RUNS.glob("*/config.json"))
    listed = f"known runs: {', '.join(known)}" if known else "there is none yet; `dvc repro` trains them"
    raise RunError(f"unknown run {name!r}; {listed}")


def pieces(decode: Callable[[list[int]], str], ids: Iterable[int]) -> Iterator[str]:
    """Text of a stream of tokens, piece by piece: a sign that is spread over several tokens comes out whole."""
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = decode(waiting)
        if not text.endswith(UNFINISHED) or len(waiting) >= LONGEST_SIGN:
            yield text
            waiting = []
    if waiting:
        yield decode(waiting)
