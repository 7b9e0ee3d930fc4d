"""A new preset costs YAML alone, a new architecture one file and one section: both go all the way to the page."""

import json
import sqlite3

import pytest

from tests.support.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(600)]
ARCHITECTURE = '''"""`trace`: every token reads the decayed sum of the embeddings before it."""

from dataclasses import dataclass

import torch
from torch import nn

from bdh.models.base import LanguageModel, Output, cross_entropy

TINY = {"n_embd": 8}


@dataclass(frozen=True)
class TraceConfig:
    n_embd: int = 16
    decay: float = 0.9


class Trace(LanguageModel):
    def __init__(self, config, vocab_size):
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embed = nn.Embedding(vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, vocab_size)

    def forward(self, tokens_BT, targets_BT=None, state=None):
        e_BTD = self.embed(tokens_BT)
        trace_BD = torch.zeros_like(e_BTD[:, 0]) if state is None else state["trace"]
        traces = []
        for t in range(tokens_BT.shape[1]):
            trace_BD = self.config.decay * trace_BD + e_BTD[:, t]
            traces.append(trace_BD)
        logits_BTV = self.lm_head(torch.stack(traces, 1))
        after = None if state is None else {"trace": trace_BD, "position": state["position"] + tokens_BT.shape[1]}
        return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT), after)

    def initial_state(self, batch_size):
        trace_BD = self.embed.weight.new_zeros(batch_size, self.config.n_embd)
        return {"trace": trace_BD, "position": torch.zeros(batch_size, dtype=torch.int64, device=trace_BD.device)}

    def flops_per_token(self, window):
        return 2.0 * self.config.n_embd * (1 + self.vocab_size)


Config = TraceConfig
Model = Trace
'''
ADDED = {"bdh_sparse": {"of": "bdh", "train": {"l1": 0.01}}, "trace": {}}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("grown"))
    (project.folder / "bdh/models/trace.py").write_text(ARCHITECTURE, encoding="utf-8")
    project.make_small(list(ADDED), ["sample_plays"])
    small = {"graph_nulls": 2, "null_draws": 20, "bootstrap": 20, "twins": 1, "restarts": 1}
    project.set(**{f"variant.{name}": section for name, section in ADDED.items()})
    project.set(**{f"frontier.{name}": value for name, value in small.items()})
    project.repro()
    return project


def test_added_preset_and_architecture_reach_page_summary_and_mlflow(grown):
    page = (grown.folder / "reports/index.html").read_text(encoding="utf-8")
    summary = (grown.folder / "reports/summary.json").read_text(encoding="utf-8")
    with sqlite3.connect(grown.folder / "mlflow.db") as store:
        tagged = {value for (value,) in store.execute("select value from tags where key = 'variant'")}
    for name, architecture in (("bdh_sparse", "bdh"), ("trace", "trace")):
        assert name in page
        assert name in summary
        assert name in tagged
        config = json.loads((grown.folder / f"data/runs/{name}-sample_plays-0/config.json").read_text(encoding="utf-8"))
        assert (config["variant"], config["architecture"]) == (name, architecture)
        assert config["train"]["l1"] == (0.01 if name == "bdh_sparse" else 0.0)
    assert set(grown.mlflow_runs()) == {"FINISHED"}
    assert len(grown.mlflow_runs()) == 2 * 3 + 1
    assert grown.stages_run(grown.repro("--dry").stdout) == set()


def test_added_preset_follows_the_section_that_it_inherits_and_nothing_else_does(grown):
    grown.set(**{"variant.bdh": {"train": {"l21": 0.01}}})
    grown.repro("code")
    changed = json.loads(grown.run("dvc", "status", "--json").stdout)
    assert {name for name in changed if "@" in name} == {"train@bdh_sparse-sample_plays-0"}
