"""The pictures of docs/images: pages as headless Chromium shows them, wide, on a phone, and dark.

python -m benchmarks.screenshots [NAME ...]     all of them, or some; a picture whose page is not there is left out

A new picture is one line of `SHOTS`. Its page is a file of the project or an address (`http://127.0.0.1:5000/#/...` of
a server that runs). Each stays below 300 kB: a larger one is reduced to 256 colours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

IMAGES = Path("docs/images")
NARROWEST = 500
"""Pixels; Chromium opens no narrower window, so that narrower pages are shown in a frame."""

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
FLAGS += ("--no-first-run", "--disable-background-networking", "--disable-sync", "--virtual-time-budget=10000")
DARK = "--blink-settings=preferredColorScheme=0"
COLOURS, LARGEST = 256, 300_000


@dataclass(frozen=True)
class Shot:
    """One picture: its name in docs/images, what it shows, and the size of the window in pixels.

    scroll: id of the element of the page that stands at the top.
    """

    name: str
    page: str
    width: int = 1400
    height: int = 900
    dark: bool = False
    scroll: str = ""


PAGE, STUDY = "reports/index.html", "reports/reference/index.html"
SHOTS = (
    Shot("page_desktop", PAGE),
    Shot("page_dark", PAGE, dark=True),
    Shot("page_phone", PAGE, width=390, height=844),
    Shot("page_table", PAGE, scroll="quality"),
    Shot("page_training", PAGE, scroll="training"),
    Shot("page_frontier", PAGE, scroll="frontier"),
    Shot("study_desktop", STUDY, height=700),
)


def address(shot: Shot) -> str | None:
    """Where the page of a picture is; None for a file that is not there."""
    if "://" in shot.page:
        return shot.page
    path = Path(shot.page)
    return path.resolve().as_uri() if path.is_file() else None


def take(shot: Shot, target: Path, chromium: str) -> None:
    """Write one picture; RuntimeError when it comes out larger than 300 kB."""
    place = address(shot)
    assert place is not None
    with tempfile.TemporaryDirectory() as folder:
        around, raw = Path(folder) / "around.html", Path(folder) / "raw.png"
        if shot.width < NARROWEST or shot.scroll:
            style = f"border:0;width:{shot.width}px;height:{shot.height}px"
            top = f"document.querySelector('iframe').contentDocument.getElementById('{shot.scroll}').scrollIntoView()"
            script = f"<script>onload = () => {top}</script>" if shot.scroll else ""
            framed = f'<body style="margin:0"><iframe src="{place}" style="{style}"></iframe>{script}'
            around.write_text(framed, encoding="utf-8")
            place = around.as_uri()
        size = f"--window-size={max(shot.width, NARROWEST)},{shot.height}"
        more = (size, f"--screenshot={raw}", f"--user-data-dir={folder}/profile", *([DARK] if shot.dark else []))
        subprocess.run([chromium, *FLAGS, *more, place], check=True, capture_output=True, timeout=120)
        with Image.open(raw) as picture:
            shown = picture.convert("RGB").crop((0, 0, shot.width, shot.height))
        target.parent.mkdir(parents=True, exist_ok=True)
        shown.save(target, optimize=True)
        if target.stat().st_size > LARGEST:
            shown.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        raise RuntimeError(
            f"{target} has {target.stat().st_size:,} bytes, more than {LARGEST:,}; take a smaller window"
        )


def main(names: list[str]) -> int:
    """Take the pictures of `names`, all without any; the exit code."""
    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    known = {shot.name: shot for shot in SHOTS}
    unknown = [name for name in names if name not in known]
    if unknown or not chromium:
        told = (
            f"no picture is named {unknown[0]}; there are: {', '.join(known)}" if unknown else "no Chromium on the path"
        )
        sys.stderr.write(f"error: {told}\n")
        return 2
    for name in names or known:
        if address(known[name]) is None:
            sys.stderr.write(f"{name}: {known[name].page} is not there; `dvc repro` or `bdh study render` makes it\n")
            continue
        take(known[name], IMAGES / f"{name}.png", chromium)
        sys.stdout.write(f"{IMAGES / name}.png\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
