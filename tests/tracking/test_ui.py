"""`bdh ui` in a real browser: the table of runs, a run's curves, the report; and a server that dies in the middle."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from bdh.commands.ui import free_port
from tests.support.tracked_project import ROOT, finished_project

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = ROOT / "reports/screenshots"
LOADING_MS = 90_000
KEY = "bdh-sample_plays-0"


def wait_for_line(stream, start):
    """The first line of a stream that begins with `start`."""
    for line in stream:
        if line.startswith(start):
            return line
    raise AssertionError(f"no line that begins with {start!r}")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A finished project, the running `bdh ui` on its store, and the two addresses that it printed."""
    finished = finished_project(tmp_path_factory)
    port = free_port()
    process = finished.start("bdh", "ui", "--port", str(port))
    try:
        table = wait_for_line(process.stdout, "table:").split()[1]
        charts = wait_for_line(process.stdout, "charts:").split()[1]
        yield finished, process, table, charts
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def page(served):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1800, "height": 1000})
        tab.set_default_timeout(LOADING_MS)
        yield tab
        browser.close()


def fold_assistant(page):
    """The assistant's panel covers a quarter of the window until it is closed; not every page shows it."""
    for button in page.query_selector_all("[aria-label='Close']"):
        button.click()


def shoot(page, name):
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def run_address(table, run_id, rest):
    base, experiment = re.match(r"(.*/#/experiments/)(\d+)/", table).groups()
    return f"{base}{experiment}/runs/{run_id}/{rest}?workflowType=machine_learning"


def test_ui_table_has_one_row_per_model_with_its_headline_numbers(served, page):
    _, _, table, _ = served
    page.goto(table)
    page.get_by_text(f"train@{KEY}").first.wait_for()
    page.get_by_text("test/bits_per_byte/static").first.wait_for()
    fold_assistant(page)
    text = page.inner_text("body")
    for word in ("compare", "variant", "corpus", "validation/bits_per_byte", "sample_plays"):
        assert word in text, word
    assert f"hebbian@{KEY}" not in text, "evaluations are folded under their model"
    shoot(page, "table")
    page.locator("[aria-label='Expand group'], .ag-row button, [data-testid*='expander']").first.click()
    page.get_by_text(f"hebbian@{KEY}").first.wait_for()
    page.get_by_text(f"frontier@{KEY}").first.wait_for()
    shoot(page, "table_with_evaluations")


def test_ui_charts_show_the_curves_of_the_runs(served, page):
    _, _, _, charts = served
    page.goto(charts)
    page.get_by_text("curves/train_nats").first.wait_for()
    page.locator(".js-plotly-plot path.js-line").first.wait_for(state="attached")
    fold_assistant(page)
    shoot(page, "charts")


def test_ui_run_has_curves_parameters_and_dataset(served, page):
    finished, _, table, _ = served
    run_id = finished.pointer()["run_id"]
    page.goto(run_address(table, run_id, ""))
    page.get_by_text("train.steps").first.wait_for()
    for word in ("Finished", "sample_plays", f"hebbian@{KEY}", "dvc.stage", "validation/bits_per_byte"):
        page.wait_for_function("word => document.body.innerText.includes(word)", arg=word)
    shoot(page, "run")
    page.goto(run_address(table, run_id, "model-metrics"))
    page.get_by_text("train_nats").first.wait_for()
    page.locator(".js-plotly-plot path.js-line").first.wait_for(state="attached")
    shoot(page, "run_curves")


def test_ui_comparison_shows_the_report(served, page):
    finished, _, table, _ = served
    page.goto(run_address(table, finished.pointer("compare", "all")["run_id"], "artifacts/index.html"))
    page.get_by_text("summary.json").first.wait_for()
    report = page.frame_locator("iframe").get_by_text("Every variant beside every other")
    report.first.wait_for()
    shoot(page, "report")


def test_ui_registry_names_the_champion(served, page):
    _, _, table, _ = served
    page.goto(table.split("#")[0] + "#/models")
    page.get_by_text("hatchery-sample_plays").first.wait_for()
    assert "champion" in page.inner_text("body")
    shoot(page, "models")


def test_ui_port_in_use_names_a_free_one(served):
    finished, _, table, _ = served
    port = re.search(r":(\d+)/", table)[1]
    done = finished.run("bdh", "ui", "--port", port, check=False)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: port {port} is in use; try `bdh ui --port \d+`\n", done.stderr)


def test_tracking_works_over_http_and_a_dying_server_is_one_warning(served, tmp_path):
    finished, process, table, _ = served
    server = table.split("/#")[0]
    other = finished.copy_to(tmp_path / "copy")
    stage = other.start("stages.train", "bdh", "sample_plays", "0", MLFLOW_TRACKING_URI=server, TOY_STOP="wait")
    end = time.monotonic() + 120
    while not (other.folder / "waiting").exists():
        assert stage.poll() is None, (stage.returncode, *stage.communicate())
        assert time.monotonic() < end, "the run has not begun"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    (other.folder / "go").touch()
    _, err = stage.communicate(timeout=120)
    assert stage.returncode == 0, err
    (line,) = err.strip().splitlines()
    assert line.startswith("warning: tracking: ")
    assert other.pointer()["run_id"] is None
    assert Path(other.folder, f"data/results/train/{KEY}.json").exists()
    assert not (other.folder / "mlflow.db").exists()
