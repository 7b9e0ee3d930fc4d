"""`bdh export` and `bdh import`: models for, and from, elsewhere. `bdh inspect`: what a run does with a text."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.style import Style
from rich.text import Text

from bdh.commands.console import console, say, show_table
from bdh.project.errors import RunError
from bdh.project.files import enter_root, replacing, run_key

TEMPLATE = Path(__file__).parents[1] / "hub/inspect.html"
PAGES = Path("data/inspect")
SHADES = " ░▒▓█"
STRONGEST = 12
LABEL = 12
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Key such as bdh-sample_plays-0, or the folder of a run.")]


def export(
    run: RunName, target: Annotated[Path, typer.Argument(metavar="DIR", help="New folder, or an earlier export.")]
) -> None:
    """Write a run as a folder that Hugging Face's transformers loads without this project (docs/using.md)."""
    here = enter_root()
    from bdh.hub import open_run
    from bdh.hub.export import export as write

    write(open_run(run, here, "cpu"), here / target, Path())
    say(f"{target} loads with AutoModelForCausalLM.from_pretrained({str(target)!r}, trust_remote_code=True)")


def bring(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An official BDH (.safetensors, .pt), a GPT-2 folder, an export.")
    ],
    variant: Annotated[str, typer.Option(help="Name of the new variant.")],
    corpus: Annotated[list[str] | None, typer.Option(help="Corpus to read (repeat it); default: all that fit.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of an official BDH, which share weights.", min=1)] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Add it to `variants` of the comparison.")] = False,
) -> None:
    """Make a checkpoint from elsewhere a variant, and a run of it per corpus that is evaluated like any other."""
    here = enter_root()
    from bdh.hub.foreign import bring_in
    from bdh.params import FILE, load

    params = load()
    readable = bring_in(here / source, variant, corpus or [], params, Path(FILE), layers, compare)
    for name in readable:
        seed = params.seeds[0]
        command = [sys.executable, "-m", "stages.train", variant, name, str(seed)]
        if subprocess.run(command, check=False).returncode:
            raise RunError(f"`{' '.join(command[1:])}` failed; its words stand above")
        say(f"{run_key(variant, name, seed)} is there")
    if compare:
        say("`dvc repro` evaluates it beside the others")
    else:
        say(f"`dvc exp run -S 'variants=[bdh,{variant}]' -S 'corpora=[{','.join(readable)}]'` compares it")


def inspect(
    run: RunName,
    text: Annotated[str, typer.Option(help="Text to read.")],
    activity: Annotated[
        str | None, typer.Option(help="Activity to show, such as x_sparse; default: xy_sparse.")
    ] = None,
    top: Annotated[int, typer.Option(help="So many neurons and synapses.", min=1, max=200)] = 16,
    html: Annotated[Path | None, typer.Option(help="Page to write; default: data/inspect/<run>.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON and write no page.")] = False,
) -> None:
    """Show which neurons fire on a text, what the state holds and who wrote it, and what it did for each prediction."""
    here = enter_root()
    from bdh.hub import open_run
    from bdh.hub.inspection import inspect_text

    trained = open_run(run, here)
    found = inspect_text(trained, text, activity, top)
    if as_json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")
        return
    page = PAGES / f"{trained.key}.html" if html is None else here / html
    with replacing(page) as temporary:
        temporary.write_text(draw_page(found), encoding="utf-8")
    _show(found)
    say(f"all of it: {page}")


def draw_page(found: dict[str, Any]) -> str:
    """One HTML file that needs nothing beside it; every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(found)


def _show(found: dict[str, Any]) -> None:
    tokens, predictions = found["tokens"], found["predictions"]
    say(
        f"{found['run']}: {found['activity'] or 'no'} activity; rows are neurons (layer.head.neuron), each on its scale"
    )
    _heat_map(tokens, found["neurons"])
    norms = found["state"]["norm"]
    say(
        f"\nstate ({found['state']['kind']}): norm {norms[0]:.4g} after the first token, {norms[-1]:.4g} after the last"
    )
    if found["synapses"]:
        rows = [
            (f"{one['tensor']}{one['index']}", f"{one['value']:+.4g}", _writers(tokens, one["writers"]))
            for one in found["synapses"][:STRONGEST]
        ]
        show_table(("synapse", "strength", "written most by"), rows)
    told = sorted(range(len(tokens) - 1), key=lambda place: -abs(predictions[place]["state_bits"]))[:STRONGEST]
    say("\npredictions to which the state contributed most (bits of the next token)")
    show_table(
        ("place", "after", "next", "bits", "without state", "from the state", "raised most", "lowered most"),
        [_prediction(tokens, predictions[place], place) for place in sorted(told)],
    )


def _prediction(tokens: list[str], row: dict[str, Any], place: int) -> tuple[str, ...]:
    bits = (f"{row['bits']:.2f}", f"{row['bits_without_state']:.2f}", f"{row['state_bits']:+.2f}")
    return str(place), tokens[place], tokens[place + 1], *bits, row["raised"], row["lowered"]


def _writers(tokens: list[str], writers: list[dict[str, Any]]) -> str:
    return ", ".join(f"{tokens[one['place']]} at {one['place']} ({one['change']:+.3g})" for one in writers)


def _heat_map(tokens: list[str], neurons: list[dict[str, Any]]) -> None:
    """Tokens from left to right, as many lines of them as the window needs."""
    screen = console()
    widths = [max(1, Text(token).cell_len) for token in tokens]
    room = max(screen.width - LABEL - 1, max(widths))
    lines: list[list[int]] = [[]]
    for place, end in enumerate(accumulate(widths)):
        if lines[-1] and end - sum(widths[: lines[-1][0]]) > room:
            lines.append([])
        lines[-1].append(place)
    for line in lines:
        screen.print(Text(" " * LABEL + " " + "".join(tokens[place] for place in line)), soft_wrap=True)
        for row in neurons:
            most = max(map(abs, row["activity"])) or 1.0
            drawn = Text(f"{row['layer']}.{row['head']}.{row['neuron']}".ljust(LABEL) + " ")
            for place in line:
                share = abs(row["activity"][place]) / most
                shade = SHADES[min(len(SHADES) - 1, round(share * (len(SHADES) - 1)))]
                level = round(255 * (1 - share))
                drawn.append(shade * widths[place], Style(color=f"rgb({level},{level},255)"))
            screen.print(drawn, soft_wrap=True)
