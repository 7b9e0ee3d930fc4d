"""The view of the runs table that `bdh ui` opens: the headline numbers as columns, in a sensible order."""

from __future__ import annotations

import json

from bdh.tracking.store import Store

KEY = "results"
TAG = f"mlflow.sharedViewState.{KEY}"
TAGS = ("variant", "corpus", "seed")
METRICS = (
    "validation/bits_per_byte",
    "test/bits_per_byte/static",
    "test/bits_per_byte/carry",
    "test/bits_per_byte/observe",
    "test/perplexity/static",
    "density/x_sparse",
    "frontier/dead_neurons_share",
    "frontier/tmi",
    "frontier/sps",
    "frontier/sec",
    "parameters",
    "timing/tokens_per_s",
)
WIDTH = 160
PAGE = "#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode={mode}&viewStateShareKey={key}"


def columns() -> list[str]:
    """Columns of the table as MLflow names them."""
    return [f"tags.`{name}`" for name in TAGS] + [f"metrics.`{name}`" for name in METRICS] + ["attributes.`Models`"]


def prepare_view(store: Store) -> None:
    """Keep the view with the experiment, where MLflow keeps the views that people share."""
    widths = {name: WIDTH for name in columns() if name.startswith("metrics.")}
    state = {"selectedColumns": columns(), "columnOrder": columns(), "columnWidths": widths}
    wanted = json.dumps(state)
    if store.client.get_experiment(store.experiment_id).tags.get(TAG) != wanted:
        store.client.set_experiment_tag(store.experiment_id, TAG, wanted)


def address(server: str, experiment_id: str, mode: str) -> str:
    """Address of the view on a server; `mode` is TABLE or CHART."""
    return f"{server.rstrip('/')}/{PAGE.format(experiment=experiment_id, mode=mode, key=KEY)}"
