"""The page: self-contained, accessible, the same bytes from the same results, honest about what is missing."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from bdh.report.data.inputs import load_inputs
from bdh.report.data.spread import WHY_ONE_SEED
from bdh.report.data.summary import result_rows, summarise
from bdh.report.page import render_page, visible
from bdh.report.plots import figure
from tests.support.browser import CHROMIUM, DARK, Frame, look_at
from tests.support.report_fixtures import Axes, dump, save, write_diverged, write_everything

ROOT = Path(__file__).resolve().parents[2]
LOADING = {"link", "img", "iframe", "object", "embed", "audio", "video", "source", "track", "base", "image", "form"}
RESULT = re.compile(r"(train|timing|hebbian|frontier|floors)/[a-z0-9_]+(-[a-z0-9_]+-\d+)?\.json")
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
    assert all(link.startswith("#") or RESULT.fullmatch(link) for link in links)
    assert {attributes["type"] for attributes in elements.named("input")} == {"radio"}
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
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    used = set(re.findall(r"url\(#([^)]+)\)", made[0]))
    assert used <= set(ids)


def test_page_tables_and_plots_are_accessible(made):
    _, elements = made
    assert len(elements.named("caption")) == len(elements.named("table")) > 8
    assert all(attributes.get("scope") in ("col", "row") for attributes in elements.named("th"))
    plots = elements.named("svg")
    assert len(plots) > 15
    assert all(a.get("role") in ("img", "group") and a.get("aria-label") for a in plots)
    assert elements.named("html")[0]["lang"] == "en"


def test_page_has_a_question_per_section_and_its_picture_before_its_tables(made):
    """The first picture of the page of before came after 36,000 pixels of tables."""
    html, elements = made
    names = ["quality", "cost", "training", "synapses", "activity", "frontier", "samples", "ledger", "texts"]
    assert [a["id"] for a in elements.named("section")] == [*names, "definitions"]
    assert {f"#{name}" for name in names} <= {a.get("href") for a in elements.named("a")}
    assert html.index("<svg") < html.index("<main>") < html.index("<table")
    for name in ("cost", "training", "synapses", "frontier"):
        section = html[html.index(f'<section id="{name}">') :]
        assert section.index("<svg") < section.index("<table")
    open_tables = re.sub(r"<details.*</details>", "", html, flags=re.S).count("<table")
    assert open_tables < len(elements.named("table")) / 4


def test_page_leads_every_number_of_a_run_to_its_file(made):
    html, _ = made
    row = re.search(r'<table id="sample_calls-leading".*?<tr><th scope="row">.*?transformer</th>(.*?)</tr>', html, re.S)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row.group(1))
    files = [re.search(r'href="([^"]+)"', cell).group(1) for cell in cells if "–" not in cell]
    assert len(files) >= 7
    assert {file.partition("/")[2] for file in files} == {"transformer-sample_calls-0.json"}
    assert {file.partition("/")[0] for file in files} == {"train", "timing", "hebbian", "frontier"}


def test_page_answers_in_three_sentences_that_a_single_seed_does_not_judge(made):
    html, _ = made
    answers = re.search(r'<ul class="answers">(.*?)</ul>', html, re.S).group(1)
    assert answers.count("<li>") == 3
    assert answers.count("(one seed: not judged)") == 3
    assert not [word for word in JUDGING if f"({word})" in answers]
    assert len(re.findall(r'class="chip ', html)) == 16
    first = html[html.index('id="first"') : html.index("<main>")]
    for told in ("known floor", "Kneser-Ney 3-gram", "unigram", "transformer", "2.710"):
        assert told in first, told
    low, high = (float(end) for end in re.search(r">1\.\d{3} \[(.*?), (.*?)\]</text>", first).groups())
    assert high - low == pytest.approx(0.1, abs=0.011), "the interval of the run's own file"
    assert first.count('class="ci"') == len(Axes().variants) * len(Axes().corpora)


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
    for slot in range(3):
        assert f"var(--v{slot})" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_page_escapes_what_models_wrote(made):
    html, elements = made
    assert "Good &lt;evening&gt; &amp; good night" in html
    assert "evening" not in {tag for tag, _ in elements.tags}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x00", "a[U+001B][31mb[U+0000]"),
        ("\u202eabc\u2066", "[U+202E]abc[U+2066]"),
        ("\ud800", "[U+D800]"),
        ("line\n\tnext \u00e9 \u4e2d \U0001f600", "line\n\tnext \u00e9 \u4e2d \U0001f600"),
    ],
)
def test_page_shows_what_is_not_seen_by_its_number(text, shown):
    assert visible(text) == shown


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
    assert len({(figure.paint(slot), figure.dash(slot), figure.marker(slot)) for slot in range(48)}) == 48


HOSTILE = (
    "</pre></script><script>harmed = 1</script><img src=x onerror='harmed = 2'><svg onload='harmed = 3'>"
    "\x1b[31m\x00\u202ereversed\u2066 javascript:harmed=4 {{ 7 * 7 }} \ud800 $\\frac{1}{0}$ \"quote' "
)
MANY = ("bdh", "transformer", "bdh_structured", "neuro_trained_with_a_long_name", *(f"slim_{i}" for i in range(15)))


def hostile(root, key):
    """The results of one run with hostile text wherever a corpus or a model can put some."""
    dump(
        root / f"data/runs/{key}/samples.json", [{"prompt": HOSTILE, "text": HOSTILE}, {"prompt": "x", "text": HOSTILE}]
    )
    path = root / f"data/results/hebbian/{key}.json"
    report = json.loads(path.read_text())
    for arm in report["arms"].values():
        for kind in ("by_year", "by_sector", "by_role"):
            if arm.get(kind):
                arm[kind] |= {HOSTILE.replace("/", "|"): next(iter(arm[kind].values()))}
    dump(path, report)
    path = root / f"data/results/frontier/{key}.json"
    report = json.loads(path.read_text())
    concept = {"neurons": 3, "best_auroc": 0.9, "contexts": [HOSTILE, "a «b» c"]}
    report["mcl"] = report["sps"] | {"concepts": {"javascript:harmed=5": concept, HOSTILE.replace("/", "|"): concept}}
    ring = [v for i in range(40) for v in (i, (i + 1) % 40)]
    drawing = {"head": 0, "of": [64, 900], "neurons": list(range(40)), "communities": [i % 9 for i in range(40)]}
    report["tmi"]["drawing"] = drawing | {"edges": ring}
    dump(path, report)
    curves = pd.read_csv(root / f"data/results/curves/{key}.csv")
    save(root / f"data/results/curves/{key}.csv", curves.replace({"series": {"permuted": "<b onclick=harmed=6>null"}}))


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """As large a page as the default comparison, with hostile text, looked at light and dark, wide and narrow."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    root, axes = tmp_path_factory.mktemp("browsed"), Axes(variants=MANY)
    write_everything(root, axes)
    for corpus in axes.corpora:
        hostile(root, f"bdh-{corpus}-0")
        path = root / f"data/tokens/{corpus}/stats.json"
        stats = json.loads(path.read_text())
        stats["provenance"][0] |= {"origin": f"javascript:harmed=7 {HOSTILE}", "licence": HOSTILE}
        dump(path, stats)
    here = Path.cwd()
    os.chdir(root)
    try:
        html = render_page(load_inputs(axes))
    finally:
        os.chdir(here)
    (root / "page.html").write_text(html, encoding="utf-8")
    frames = [Frame(1400, scripts=False), Frame(1400), Frame(390)]
    return {"light": look_at(root / "page.html", frames), "dark": look_at(root / "page.html", frames[1:], DARK)}, html


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_page_in_a_browser_is_read_at_any_width_in_light_and_dark(browsed, colours):
    for found in browsed[0][colours]:
        assert found["fits"]
        assert found["open_fits"], "the page scrolls sideways with everything unfolded"
        assert found["faint"] == []
        assert found["open"] > 3 * found["shown"], "nothing is folded"


def test_page_in_a_browser_answers_on_the_first_screen_and_is_short(browsed):
    plain, scripted, phone = browsed[0]["light"]
    for found in (plain, scripted):
        assert found["height"] <= 12 * 900
        assert found["first"] < found["claims"] <= 900
    assert phone["height"] < 30_000


def test_page_in_a_browser_needs_no_script_and_sorts_and_filters_with_it(browsed):
    plain, scripted, _ = browsed[0]["light"]
    assert plain["buttons"] == 0
    assert scripted["buttons"] > 50
    assert plain["sections"] == scripted["sections"] == 10
    assert plain["shown"] == pytest.approx(scripted["shown"], rel=0.01)
    assert (scripted["top"], scripted["left"]) == ("transformer", 1)


def test_page_in_a_browser_shows_hostile_text_and_runs_none_of_it(browsed):
    assert [found["harmed"] for found in browsed[0]["light"]] == [None] * 3
    elements = Elements(browsed[1])
    assert not LOADING & {tag for tag, _ in elements.tags}
    assert len(elements.named("script")) == 1
    assert not [name for _, a in elements.tags for name in a if name.startswith("on")]
    text = "".join(elements.text)
    for told in ("<script>harmed = 1</script>", "[U+001B][31m[U+0000][U+202E]reversed", "{{ 7 * 7 }}", "[U+D800]"):
        assert text.count(told) > 4, told
