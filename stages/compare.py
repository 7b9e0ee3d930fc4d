"""Stage compare: every variant beside every other, on one page, as one table and as one summary."""

from __future__ import annotations

import typer

from bdh import params, tracking
from bdh.project.errors import reported
from bdh.project.files import REPORTS, replacing, write_json


@reported
def main() -> None:
    """Read the results of every run that params.yaml names; write summary.json, results.csv, claims and index.html.

    And copy into reports/ what git keeps of these results. Nothing is written when one is missing or damaged.
    """
    from bdh.report.claims.ledger import write_ledger
    from bdh.report.data.export import export
    from bdh.report.data.inputs import load_inputs
    from bdh.report.data.summary import result_rows, summarise, write_results
    from bdh.report.page import render_page

    settings = params.load()
    inputs = load_inputs(settings)
    summary, rows, html = summarise(inputs), result_rows(inputs), render_page(inputs)
    axes = {
        "scale": settings.scale,
        "corpora": settings.corpora,
        "variants": settings.variants,
        "seeds": settings.seeds,
    }
    with tracking.tracked("compare", "all", params=axes, tags={"scale": settings.scale}) as tracker:
        write_json(REPORTS / "summary.json", summary)
        write_results(REPORTS / "results.csv", rows)
        with replacing(REPORTS / "index.html") as temporary:
            temporary.write_text(html, encoding="utf-8")
        for path in write_ledger(REPORTS, inputs):
            tracker.log_file(path)
        export(inputs)
        tracking.update_champions(summary)


if __name__ == "__main__":
    typer.run(main)
