"""`bdh generate RUN`: a text continued by a trained model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdh.project.errors import RunError, one_line
from bdh.project.files import RUNS, TOKENS, enter_root

if TYPE_CHECKING:
    from bdh.corpora.tokenizer import Tokenizer

LARGEST_SEED = 2**63 - 1
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
LONGEST_SIGN = 8


def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Key such as bdh-sample_plays-0, or the folder of a run.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "\n",
    tokens: Annotated[int, typer.Option(help="Number of tokens to write.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.", min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample among that many likeliest tokens; 0: among all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0, max=LARGEST_SEED)] = 0,
) -> None:
    """Continue a text with a trained model, written out token by token; memory does not grow with the length."""
    folder = find_run(run, enter_root())
    import torch

    from bdh.generation import continue_text
    from bdh.project.device import choose_device
    from bdh.training.checkpoints import load_run

    text = readable(prompt)
    model, config = load_run(folder, choose_device("auto", torch.get_num_threads()))
    tokenizer = tokenizer_of(folder, config)
    start = tokenizer.encode(text)
    if not start:
        raise RunError("the prompt is empty; give at least one sign with --prompt")
    ids = continue_text(model, start, tokens, temperature, top_k or None, seed)
    for piece in chain((text,), pieces(tokenizer.decode, ids), ("\n",)):
        write_utf8(piece)


def readable(prompt: str) -> str:
    """The prompt as text; RunError for bytes that are no UTF-8, which the command line hands on as lone surrogates."""
    try:
        return prompt.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise RunError(f"--prompt is not UTF-8 ({one_line(error)}); write it in UTF-8") from None


def write_utf8(text: str) -> None:
    """Write to standard output at once, in UTF-8 whatever the terminal says it reads."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


def tokenizer_of(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a run was trained with, which lies in its folder; of an older run that of its corpus.

    Raises RunError when that corpus was tokenized anew since.
    """
    from bdh.corpora.tokenizer import load
    from bdh.corpora.tokens import TokenCorpus

    if "tokenizer" in config:
        return load(folder, config["tokenizer"])
    corpus = TokenCorpus.open(TOKENS / config["corpus"])
    if config.get("corpus_digest", corpus.digest) != corpus.digest or corpus.vocab_size != config["vocab_size"]:
        raise RunError(
            f"{folder}: corpus {corpus.name} was tokenized anew since this run was trained, its words are others; "
            "`dvc repro` trains it again"
        )
    return corpus.tokenizer


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
