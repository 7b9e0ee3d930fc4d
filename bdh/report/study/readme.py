"""What README.md shows of a study: a table and a picture, made of summary.json alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bdh.project.files import read_json, replacing
from bdh.report import formats
from bdh.report.study.outcome import axis, over_cells
from bdh.report.study.plan import SUMMARY, StudyError

README, PICTURE = Path("README.md"), Path("docs/images/study.svg")
START, END = "<!-- study -->", "<!-- /study -->"
INK, GRID = "#24292f", "#d0d7de"
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hatchery",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": True,
    "mathtext.fontset": "dejavusans",
    "lines.linewidth": 1.6,
}
COLOURS = {"reference": "#9c3f0c", "tuned": "#3a3ee8"}
MARKERS = {"reference": "s", "tuned": "o"}


def with_study(readme: str, summary: Mapping[str, Any]) -> str:
    """The text of README.md with everything between its markers made anew; StudyError without the markers."""
    if START not in readme or END not in readme:
        raise StudyError(f"{README} has no place for the study; write the lines {START} and {END} where it belongs")
    before, _, rest = readme.partition(START)
    return f"{before}{START}\n{study_table(summary)}\n{END}{rest.partition(END)[2]}"


def study_table(summary: Mapping[str, Any]) -> str:
    """One row per corpus and variant, lowest first; per recipe bits per byte and nats per token on the test text."""
    rows = summary["rows"]
    recipes = axis(rows, "recipe")
    head = ["corpus", "variant", "parameters"]
    head += [f"{recipe}, {unit}" for recipe in recipes for unit in ("bits per byte", "nats per token")]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for corpus in axis(rows, "corpus"):
        own = [row for row in rows if row["corpus"] == corpus]
        for variant in _lowest_first(own):
            cells = [corpus, f"`{variant}`", _sizes(own, variant)]
            for recipe in recipes:
                for measure in ("bits_per_byte", "nats_per_token"):
                    cells.append(formats.spread(over_cells(own, measure, variant=variant, recipe=recipe)))
            lines.append(f"| {' | '.join(cells)} |")
        floor = summary["corpora"][corpus]
        best = [formats.fixed(floor["bits_per_byte"]), formats.fixed(floor["nats_per_token"])]
        lines.append(f"| {corpus} | {floor['strongest_ngram']} | | {' | '.join(best * len(recipes))} |")
    counts = summary["cells"]
    told = f"{counts['run']} of {counts['planned']} planned trainings"
    lines += ["", f"Held-out test text, mean ± half the 95 % interval over n seeds; {told}.", ""]
    lines.append(f"![Test bits per byte of every seed, by variant and recipe]({PICTURE.as_posix()})")
    return "\n".join(lines)


def _lowest_first(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Variants by the lowest mean of their recipes; those without a number last."""

    def level(variant: str) -> tuple[float, str]:
        found = [over_cells(rows, variant=variant, recipe=recipe) for recipe in axis(rows, "recipe")]
        return min((spread.mean for spread in found if spread), default=float("inf")), variant

    return sorted(axis(rows, "variant"), key=level)


def _sizes(rows: Sequence[Mapping[str, Any]], variant: str) -> str:
    """Parameters of every recipe that was run, in millions, once where they are equal."""
    sizes = [row["parameters"] for row in rows if row["variant"] == variant and row["parameters"]]
    return ", ".join(dict.fromkeys(f"{size / 1e6:.2f} M" for size in sizes))


def draw_study(summary: Mapping[str, Any]) -> str:
    """The picture as SVG: one panel per corpus, a point per seed, a bar at the mean; the same bytes for one summary."""
    rows = [row for row in summary["rows"] if row["bits_per_byte"] is not None]
    corpora = axis(rows, "corpus")
    settings: dict[Any, Any] = dict(mpl.rcParamsDefault) | SETTINGS | {"backend": "svg"}
    with mpl.rc_context(settings):
        count = max((len(axis([r for r in rows if r["corpus"] == c], "variant")) for c in corpora), default=1)
        figure = Figure(figsize=(4.8 * max(1, len(corpora)), 1.3 + 0.28 * count), facecolor="white", layout="tight")
        canvas = FigureCanvasSVG(figure)
        panels = figure.subplots(1, max(1, len(corpora)), squeeze=False)[0]
        for axes, corpus in zip(panels, corpora, strict=False):
            _panel(axes, summary, [row for row in rows if row["corpus"] == corpus], corpus)
        text = _svg(canvas)
    return text.replace("</metadata>", f"<!-- {digest(summary)} --></metadata>", 1)


def _panel(axes: Any, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], corpus: str) -> None:
    variants = _lowest_first(rows)[::-1]
    for recipe in axis(rows, "recipe"):
        own = [row for row in rows if row["recipe"] == recipe]
        places = [variants.index(row["variant"]) for row in own]
        values = [row["bits_per_byte"] for row in own]
        colour, marker = COLOURS[recipe], MARKERS[recipe]
        axes.plot(values, places, linestyle="", marker=marker, markersize=4, color=colour, alpha=0.7, label=recipe)
        for place, variant in enumerate(variants):
            spread = over_cells(own, variant=variant)
            if spread is not None:
                axes.plot([spread.mean] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=1.4)
    level = summary["corpora"][corpus]["bits_per_byte"]
    if level < 1.3 * max(row["bits_per_byte"] for row in rows):
        axes.axvline(level, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="strongest n-gram")
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(-0.6, len(variants) - 0.4)
    axes.set_xlabel("test bits per byte (lower is better)")
    axes.set_title(corpus, loc="left")
    axes.legend(frameon=False, fontsize=7)


def _svg(canvas: FigureCanvasSVG) -> str:
    buffer = io.StringIO()
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": "Hatchery"})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def digest(summary: Mapping[str, Any]) -> str:
    """What ties a picture to the summary that it was drawn from."""
    text = json.dumps(summary, sort_keys=True, allow_nan=False)
    return f"summary {hashlib.sha256(text.encode()).hexdigest()}"


def write_readme(folder: Path, readme: Path = README, picture: Path = PICTURE) -> None:
    """Write table and picture of the study in `folder` into a README and beside it."""
    summary = read_json(folder / SUMMARY)
    text = with_study(readme.read_text(encoding="utf-8"), summary)
    with replacing(picture) as temporary:
        temporary.write_text(draw_study(summary), encoding="utf-8")
    with replacing(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
