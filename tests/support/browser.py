"""A page as a browser shows it: one start of headless Chromium looks at it in several frames and says what it found."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars")
FLAGS += ("--allow-file-access-from-files", "--window-size=1400,900")
DARK = "--blink-settings=preferredColorScheme=0"
LOOK = """
const parse = text => {
  const n = (text.match(/[\\d.]+/g) || []).map(Number);
  const unit = text.startsWith("color(") ? 1 : 255;
  return {c: n.slice(0, 3).map(v => v / unit), a: n.length > 3 ? n[3] : 1};
};
const over = (top, below) => top.c.map((v, i) => v * top.a + below[i] * (1 - top.a));
const light = c => c.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = node => node === null ? [1, 1, 1]
  : over(parse(getComputedStyle(node).backgroundColor), behind(node.parentElement));
const ratio = node => {
  const style = getComputedStyle(node), paint = node.closest("svg") ? style.fill : style.color;
  const back = behind(node), ink = over(parse(paint), back), [a, b] = [light(ink), light(back)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const faint = d => {
  const seen = {}, walk = d.createTreeWalker(d.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || /^(script|style|title)$/i.test(node.tagName)) continue;
    const key = [node.tagName, node.getAttribute("class"), node.parentElement.getAttribute("class"),
                 node.closest("details") !== null, node.getAttribute("style")].join(" ");
    if (!(key in seen)) seen[key] = [ratio(node), walk.currentNode.data.trim().slice(0, 30)];
  }
  return Object.entries(seen).filter(([, found]) => !(found[0] >= 4.5)).slice(0, 5);
};
const look = frame => {
  const w = frame.contentWindow, d = frame.contentDocument, box = q => d.querySelector(q).getBoundingClientRect();
  const fits = () => d.documentElement.scrollWidth <= w.innerWidth;
  const found = {height: d.documentElement.scrollHeight, fits: fits(), first: box("#first").bottom,
    claims: box(".chips").bottom,
    buttons: d.querySelectorAll("thead button").length, harmed: w.harmed === undefined ? null : w.harmed,
    sections: d.querySelectorAll("section").length, shown: d.body.innerText.length};
  const button = d.querySelector("table.sortable thead button");
  if (button) {
    button.click();
    button.click();
    found.top = d.querySelector("table.sortable tbody th").textContent;
    const field = d.querySelector("input[type=search]");
    field.value = "structured";
    field.dispatchEvent(new w.Event("input"));
    found.left = [...field.parentElement.querySelectorAll("tbody tr")].filter(row => !row.hidden).length;
  }
  d.querySelectorAll("details").forEach(fold => fold.open = true);
  d.querySelectorAll("input[type=radio]").forEach(one => one.checked = one.id === "corpus-all");
  return {...found, open_fits: fits(), faint: faint(d), open: d.body.innerText.length};
};
onload = () => {
  document.getElementById("found").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
};
"""


@dataclass(frozen=True)
class Frame:
    """A window of `width` pixels, with or without scripts."""

    width: int
    scripts: bool = True


def look_at(page: Path, frames: list[Frame], *flags: str) -> list[dict[str, Any]]:
    """What the page is like in every frame, 900 pixels high: its height, whether it fits, where its first figure ends,
    what its script did, and which words stand out too little from what is behind them."""
    assert CHROMIUM is not None
    made = []
    for frame in frames:
        may = "allow-same-origin allow-scripts" if frame.scripts else "allow-same-origin"
        style = f"border:0;width:{frame.width}px;height:900px"
        made.append(f'<iframe src="{page.name}" sandbox="{may}" style="{style}"></iframe>')
    around = page.with_name("around.html")
    text = f'<meta charset="utf-8"><pre id="found"></pre>{"".join(made)}<script>{LOOK}</script>'
    around.write_text(text, encoding="utf-8")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, *flags, profile, around.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None
    assert found.group(1), "the page was not looked at"
    return json.loads(html.unescape(found.group(1)))
