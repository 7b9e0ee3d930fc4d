"""`bdh generate RUN...`: a text continued by one trained model, or by several side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from bdh.commands.console import say, show_table
from bdh.project.errors import RunError, one_line, visible
from bdh.project.files import enter_root

if TYPE_CHECKING:
    from bdh.hub import TrainedRun

LARGEST_SEED = 2**63 - 1
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
LONGEST_SIGN = 8


def generate(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Keys such as bdh-sample_plays-0, or folders of runs.")
    ],
    prompt: Annotated[str, typer.Option(help="Text to continue; - reads it from standard input.")] = "\n",
    tokens: Annotated[int, typer.Option(help="Number of tokens to write.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.", min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample among that many likeliest tokens; 0: among all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0, max=LARGEST_SEED)] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (repeat it for several).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print runs, prompt and texts as JSON.")] = False,
) -> None:
    """Continue a text with a trained model, written out token by token, or with several, side by side.

    Memory does not grow with the length.
    """
    here = enter_root()
    text = readable(sys.stdin.buffer.read() if prompt == "-" else prompt)
    stop = [readable(text, "--stop") for text in stop or []]
    if "" in stop:
        raise RunError("--stop is empty; give the text before which to end")
    from bdh.generation import continue_text
    from bdh.hub import open_run

    def written(run: TrainedRun) -> Iterator[str]:
        start = run.tokenizer.encode(text)
        if not start:
            raise RunError("the prompt is empty; give at least one sign with --prompt")
        ids = continue_text(run.model, start, tokens, temperature, top_k or None, seed)
        return until(pieces(run.tokenizer.decode, ids), stop)

    if len(runs) == 1 and not as_json:
        for piece in chain((text,), written(open_run(runs[0], here)), ("\n",)):
            write_utf8(piece)
        return
    opened = (open_run(name, here) for name in runs)
    texts = [{"run": run.key, "prompt": text, "text": "".join(written(run))} for run in opened]
    if as_json:
        write_utf8(json.dumps(texts, ensure_ascii=False, indent=2) + "\n")
    else:
        say(text)
        show_table([one["run"] for one in texts], [[one["text"] for one in texts]])


def readable(given: bytes | str, option: str = "--prompt") -> str:
    """What was given on the command line or on standard input as text; RunError for what is no UTF-8."""
    try:
        return (given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given).decode("utf-8")
    except UnicodeError as error:
        raise RunError(f"{option} is not UTF-8 ({one_line(error)}); write it in UTF-8") from None


def until(texts: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces of a text up to the first of `stops`; what may be the beginning of one waits for what follows."""
    waiting, longest = "", max(map(len, stops), default=1)
    for piece in texts:
        waiting += piece
        found = [place for place in map(waiting.find, stops) if place >= 0]
        if found:
            yield waiting[: min(found)]
            return
        safe = len(waiting) - longest + 1
        if safe > 0:
            yield waiting[:safe]
            waiting = waiting[safe:]
    yield waiting


def write_utf8(text: str) -> None:
    """Write to standard output at once, in UTF-8 whatever the terminal says it reads.

    What a model writes must not steer a terminal: there, signs that could are written out. Files and pipes get all.
    """
    if sys.stdout.isatty():
        text = "".join(sign if sign in "\n\t" else visible(sign) for sign in text)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


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
