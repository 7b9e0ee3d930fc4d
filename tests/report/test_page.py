"""The page: self-contained, accessible, the same bytes from the same results, honest about what is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bdh.report.data.inputs import load_inputs
from bdh.report.data.spread import WHY_ONE_SEED
from bdh.report.data.summary import result_rows, summarise
from bdh.report.page import render_page
from bdh.report.plots import figure
from tests.support.report_fixtures import Axes, write_diverged, write_everything

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOADING = {"link", "img", "iframe", "object", "embed", "audio", "video", "source", "track", "base", "image", "input"}
RENDER = """
import os, sys
os.chdir(sys.argv[1])
from bdh.report.plots import figure
from bdh.report.data.inputs import load_inputs
from bdh.report.page import render_page
from tests.support.report_fixtures import Axes
sys.stdout.write(render_page(load_inputs(Axes(corpora=("sample_calls",), variants=("bdh", "neuro"), seeds=(0, 1)))))
assert "torch" not in sys.modules and "mlflow" not in sys.modules
"""


class Elements(HTMLParser):
    """All start tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The default axes: three variants, two corpora, one seed."""
    root = tmp_path_factory.mktemp("results")
    write_everything(root, Axes())
    here = Path.cwd()
    os.chdir(root)
    try:
        html = render_page(load_inputs(Axes()))
    finally:
        os.chdir(here)
    return html, Elements(html)


def test_page_loads_nothing(made):
    html, elements = made
    assert not LOADING & {tag for tag, _ in elements.tags}
    assert all("src" not in attributes for attributes in elements.named("script"))
    links = [v for _, a in elements.tags for k, v in a.items() if k in ("href", "xlink:href", "src", "data", "action")]
    assert links
    assert all(link.startswith("#") for link in links)
    styles = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in styles
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert not re.findall(r"https?://", html)
    policy = next(a for a in elements.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_page_ids_are_unique_and_links_lead_somewhere(made):
    _, elements = made
    ids = Counter(attributes["id"] for _, attributes in elements.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    links = {v for _, a in elements.tags for k, v in a.items() if k in ("href", "xlink:href")}
    assert {link[1:] for link in links} <= set(ids)
    used = set(re.findall(r"url\(#([^)]+)\)", made[0]))
    assert used <= set(ids)


def test_page_tables_and_plots_are_accessible(made):
    html, elements = made
    assert len(elements.named("caption")) == len(elements.named("table")) > 8
    assert all(attributes.get("scope") in ("col", "row") for attributes in elements.named("th"))
    plots = elements.named("svg")
    assert len(plots) > 15
    assert all(a.get("role") == "img" and a.get("aria-label") for a in plots)
    assert elements.named("html")[0]["lang"] == "en"
    assert html.index('id="quality"') < html.index('id="plots"')


def test_page_shows_every_variant_on_every_corpus(made):
    _, elements = made
    text = "".join(elements.text)
    assert "6 of 6 complete" in text
    assert "Laptop scale: small budgets. Not evidence about the variants at scale." in text
    for corpus in Axes().corpora:
        assert f"{corpus}: prediction of held-out text" in text
    assert text.count("bdh_structured") > 10


def test_page_uses_its_own_colours_in_plots(made):
    html, _ = made
    assert not re.search(r"#fe\d\d01|#010203|#040506", html)
    for slot in range(3):
        assert f"var(--v{slot})" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_page_escapes_what_models_wrote(made):
    html, elements = made
    assert "Good &lt;evening&gt; &amp; good night" in html
    assert "evening" not in {tag for tag, _ in elements.tags}


def test_page_is_the_same_in_every_process(tmp_path):
    write_everything(tmp_path, Axes(corpora=("sample_calls",), variants=("bdh", "neuro"), seeds=(0, 1)))
    pages = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
        done = subprocess.run(
            [sys.executable, "-c", RENDER, str(tmp_path)], env=environment, capture_output=True, check=True, cwd=ROOT
        )
        pages.append(done.stdout)
    assert pages[0] == pages[1]
    assert len(pages[0]) > 50_000


JUDGING = ("better", "worse", "practically equal", "no difference shown", "supported", "not supported")
JUDGING += ("above its null", "below its null", "not distinguishable from its null")


def test_page_of_one_seed_judges_nothing_and_says_why_once(made):
    """No p, no verdict about a difference, no claim supported: on the page, in the summary and in the table of runs."""
    html, _ = made
    shown = re.findall(r"<(?:td|span class=\"detail\")[^>]*>([^<]*)", html)
    assert not [text for text in shown if text.splitlines() and text.splitlines()[-1].removeprefix("★ ") in JUDGING]
    assert not re.search(r", p (?:&lt; )?0\.", html)
    assert html.count("one seed: not judged") > 20
    assert "".join(made[1].text).count(WHY_ONE_SEED) == 1


def test_summary_and_results_of_one_seed_have_no_p_and_no_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seeds, judged in (((0,), False), ((0, 1), True)):
        axes = Axes(corpora=("sample_calls",), seeds=seeds)
        write_everything(tmp_path, axes)
        inputs = load_inputs(axes)
        names = {name.rpartition("/")[2] for row in result_rows(inputs) for name in row}
        assert bool({"p", "untrained_p", "minus_bdh_p", "minus_bdh_p_adjusted"} & names) == judged
        words = {value for row in result_rows(inputs) for value in row.values() if isinstance(value, str)}
        assert bool(words & set(JUDGING)) == judged
        text = json.dumps(summarise(inputs))
        assert ('"p"' in text, any(f'"{word}"' in text for word in JUDGING)) == (judged, judged)


def test_page_of_several_seeds_names_the_family_and_the_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = Axes(corpora=("sample_calls",), seeds=(0, 1))
    write_everything(tmp_path, axes)
    text = "".join(Elements(render_page(load_inputs(axes))).text)
    assert "Benjamini and Yekutieli, false discovery rate 5 %): the family is all" in text
    assert "at least 0.01 bits per byte (the smallest effect of interest)" in text
    assert WHY_ONE_SEED not in text


def test_page_styles_the_swatch_of_every_variant(made):
    html, _ = made
    assert re.findall(r"^\.(s\d) \{ border-top: (.+) var\(--(v\d)\); \}$", html, re.M) == [
        (f"s{slot}", "3px solid", f"v{slot}") for slot in range(3)
    ]
    assert all(f"--v{slot}: {colour};" in html for slot, colour in enumerate(figure.LIGHT))


def test_page_leads_from_the_top_to_the_runs_without_a_result(tmp_path, monkeypatch, made):
    monkeypatch.chdir(tmp_path)
    axes = Axes(corpora=("sample_calls",))
    write_everything(tmp_path, axes)
    write_diverged(tmp_path, "transformer-sample_calls-0")
    elements = Elements(render_page(load_inputs(axes)))
    text = "".join(elements.text)
    assert "2 of 3 complete, 1 diverged" in text
    assert "1 of the trainings diverged" in text
    assert {"href": "#gaps"} in elements.named("a")
    assert "Runs without a result" not in "".join(made[1].text)


def test_page_wears_the_files_beside_it(made):
    html, _ = made
    folder = ROOT / "bdh/report"
    for name in ("page.css", "sort.js"):
        assert (folder / name).read_text(encoding="utf-8").strip() in html


def test_page_of_many_variants_gives_each_its_own_look():
    assert len(set(figure.swatches(48))) == 48
    assert len({(figure.paint(slot), str(figure.dash(slot)), figure.marker(slot)) for slot in range(48)}) == 48


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1400])
def test_page_in_a_browser_sorts_and_never_scrolls_sideways(made, tmp_path, width):
    probe = (
        '<script>document.querySelector("table.sortable thead button").click();'
        'document.querySelector("table.sortable thead button").click();'
        "document.title = [document.documentElement.scrollWidth <= innerWidth,"
        'document.querySelector("table.sortable tbody th").textContent,'
        'document.querySelectorAll("thead button").length].join("|");</script></body>'
    )
    page = tmp_path / "page.html"
    page.write_text(made[0].replace("</body>", probe), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    fits, first, buttons = title.group(1).split("|")
    assert fits == "true"
    assert first == "transformer"
    assert int(buttons) > 50
