"""`bdh study`: run rows of a study, take results into it, render it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdh.commands.console import say, show_table
from bdh.commands.costs import BROUGHT
from bdh.commands.repro import TIMED_OUT
from bdh.commands.schedule import die_with_us, terminable
from bdh.project.errors import HatcheryError
from bdh.project.files import REPORTS, enter_root, read_json, result_path
from bdh.project.processes import Stopped

if TYPE_CHECKING:
    from bdh.report.study.plan import Study, StudyCell

FOLDER = Path("reports/reference")
WORK = Path("data/study")
PROGRAMS = ("bdh", "stages")
BESIDE = ("dvc.yaml", ".dvcignore", "benchmarks/results/h200_scaling.json", "docs/tuning.csv")
At = Annotated[Path, typer.Option("--study", metavar="FOLDER", help="The study.")]
app = typer.Typer(
    name="study",
    help="A study: a params file, a plan and small results in one folder (docs/study.md).",
    no_args_is_help=True,
    add_completion=False,
)


class StudyRunError(HatcheryError):
    """Rows of a study cannot be run."""


@app.command()
def render(study: At = FOLDER) -> None:
    """Make page, tables, ledger and summary of a study from its small files; nothing else is read or written."""
    enter_root()
    from bdh.report.study.page import render_study
    from bdh.report.study.plan import load_study

    found = load_study(study)
    written = render_study(found)
    run = sum(not reasons["train"] for reasons in found.reasons.values())
    say(
        f"{found.title}: {run} of {len(found.cells)} cells run; {len(written)} files, {study / 'index.html'} among them"
    )


@app.command()
def add(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|TAR", help="A project in which cells were run.")],
    study: At = FOLDER,
    commit: Annotated[str | None, typer.Option(help="Commit of the code that ran; default: that of FOLDER.")] = None,
) -> None:
    """Take the finished cells of a project into a study, then render it; exit 1 where a result was refused."""
    source = source.absolute()
    enter_root()
    from bdh.report.study.gather import add as take
    from bdh.report.study.page import render_study
    from bdh.report.study.plan import load_study

    taken, refused = take(load_study(study), source, commit)
    for line in taken:
        say(line)
    for line in refused:
        say(f"refused: {line}")
    render_study(load_study(study))
    say(f"{len(taken)} cells taken, {len(refused)} refused")
    if refused:
        raise typer.Exit(1)


@app.command()
def pack(
    target: Annotated[Path, typer.Argument(metavar="TAR", help="Where to write, for example $OUT/cells.tgz.")],
    study: At = FOLDER,
    source: Annotated[Path | None, typer.Option("--from", help="Default: where `bdh study run` works.")] = None,
) -> None:
    """Pack what `bdh study add` would take from a project, without weights and unlicensed text, into one file."""
    target, source = target.absolute(), source and source.absolute()
    enter_root()
    from bdh.report.study.gather import pack as write
    from bdh.report.study.plan import load_study

    count = write(load_study(study), source or WORK / study.name, target)
    say(f"{count} files in {target}")


@app.command()
def readme(study: At = FOLDER) -> None:
    """Write table and picture of a study into README.md, between its markers."""
    enter_root()
    from bdh.report.study.readme import PICTURE, write_readme

    write_readme(study)
    say(f"README.md and {PICTURE} show {study / 'summary.json'}")


@app.command()
def run(
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[ROW]...", help="Rows such as tuned/bdh-shakespeare-0; all without.")
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="Only rows of this recipe.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Only rows of this variant.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Only rows on this corpus.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only rows of this seed.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, as in `bdh repro`.", min=1)] = 1,
    time_limit: Annotated[float | None, typer.Option(help="Seconds, as in `bdh repro`.")] = None,
    study: At = FOLDER,
) -> None:
    """Run rows of a study from their corpus to their evaluations, and show them beside what the study holds.

    Everything happens in data/study, a small copy of this project with the study's settings: params.yaml, data,
    reports and MLflow of the project itself stay as they are. What is done already is not done again.
    """
    enter_root()
    from bdh.report.study.plan import load_study

    found = load_study(study)
    wanted = {"recipe": recipe, "variant": variant, "corpus": corpus, "seed": seed}
    cells = _chosen(found, rows or [], wanted)
    codes, began = [], time.monotonic()
    for name in dict.fromkeys(cell.recipe for cell in cells):
        own = [cell for cell in cells if cell.recipe == name]
        work = prepare(found, name, own)
        command = [sys.executable, "-m", "bdh", "repro", *(cell.key for cell in own), "--jobs", str(jobs)]
        if time_limit is not None:
            command += ["--time-limit", str(max(0.0, time_limit - (time.monotonic() - began)))]
        codes.append(_followed(command, work))
        if codes[-1] == TIMED_OUT:
            break
    show_table(
        ("row", "test, nats per token", "in the study", "difference", "spread of its seeds"),
        [_beside(found, cell) for cell in cells],
    )
    say(f"`bdh study add {WORK / study.name}` takes these results into {study}")
    if any(codes):
        raise typer.Exit(max(codes))


def _followed(command: list[str], work: Path) -> int:
    """The exit code of a command that ends as we are asked to end, in its own good time."""
    child = subprocess.Popen(command, cwd=work, env=_environment(work), preexec_fn=die_with_us())
    with terminable():
        try:
            return child.wait()
        except Stopped:
            child.terminate()
            child.wait()
            raise


def _chosen(study: Study, names: list[str], wanted: dict[str, list[Any] | None]) -> list[StudyCell]:
    known = {cell.name: cell for cell in study.cells}
    for name in names:
        if name not in known:
            near = [other for other in known if other.endswith(f"/{name}")]
            meant = f"did you mean {near[0]}? " if near else ""
            raise StudyRunError(f"{name} is no row of {study.folder}; {meant}rows are listed in its index.html")
    cells = [known[name] for name in names] if names else list(study.cells)
    cells = [c for c in cells if all(values is None or c.axes()[axis] in values for axis, values in wanted.items())]
    if not cells:
        raise StudyRunError(f"no row of {study.folder} has all that was asked for; its plan is study.yaml")
    return cells


def prepare(study: Study, recipe: str, cells: list[StudyCell]) -> Path:
    """A project of its own for the cells of one recipe: the code as it is here, the study's settings, DVC's cache.

    Results and checkpoints of earlier calls stay.
    """
    from bdh.report.study.plan import PARAMS

    work = WORK / study.folder.name / recipe
    work.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.copytree(name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, work / name)
    settings = study.settings(recipe, cells)
    axes = {"recipe": recipe, "variants": settings.variants, "corpora": settings.corpora, "seeds": settings.seeds}
    write_params(study.folder / PARAMS, work / PARAMS, axes)
    for path in (study.home(recipe) / REPORTS / "timing").glob("*.json"):
        (work / BROUGHT).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / BROUGHT / path.name)
    if not (work / ".dvc").is_dir():
        _dvc(work, "init", "-q", "--no-scm")
        shared = Path(".dvc/cache").absolute()
        if shared.parent.is_dir():
            _dvc(work, "cache", "dir", "--local", str(shared))
    return work


def write_params(source: Path, target: Path, axes: dict[str, Any]) -> None:
    """Copy a params file with other axes, comments and quotes as they are; an equal file is left alone."""
    import io

    from ruamel.yaml import YAML

    from bdh.project.files import replacing

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    values = yaml.load(source.read_text(encoding="utf-8"))
    for name, value in axes.items():
        values[name] = value
    text = io.StringIO()
    yaml.dump(values, text)
    if target.exists() and target.read_text(encoding="utf-8") == text.getvalue():
        return
    with replacing(target) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _dvc(work: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=work, env=_environment(work), capture_output=True, text=True
    )
    if done.returncode:
        raise StudyRunError(f"`dvc {' '.join(words)}` in {work} ended with {done.returncode}: {done.stderr}")


def _environment(work: Path) -> dict[str, str]:
    """The copy's own code comes first, and its own MLflow store; a store that the user names is used all the same."""
    own = {"PYTHONPATH": os.pathsep.join([str(work.absolute()), *filter(None, [os.environ.get("PYTHONPATH")])])}
    return {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "DVC_STAGE")} | own


def _beside(study: Study, cell: StudyCell) -> tuple[str, ...]:
    """One row as it came out here and as it stands in the study."""
    from bdh.report import formats
    from bdh.report.study.outcome import over_cells

    path = result_path(f"hebbian/{cell.key}.json", WORK / study.folder.name / cell.recipe)
    arms = read_json(path)["arms"] if path.exists() else {}
    here = arms.get("static", {}).get("nats_per_token")
    summary = study.folder / "summary.json"
    rows = read_json(summary)["rows"] if summary.exists() else []
    axes = cell.axes()
    there = over_cells(rows, "nats_per_token", **axes)
    del axes["seed"]
    seeds = over_cells(rows, "nats_per_token", **axes)
    gap = None if here is None or there is None else here - there.mean
    spread = None if seeds is None else seeds.sd
    shown = [formats.fixed(value, 4) for value in (here, there.mean if there else None)]
    return cell.name, *shown, formats.signed(gap, 4), formats.fixed(spread, 4)
