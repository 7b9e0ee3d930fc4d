"""The pipeline on the real corpora, where they lie beside the checkout."""

import itertools
import json

import pytest

from tests.support.project import Project
from tests.support.shared import shared

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_pipeline_runs_on_the_real_corpora(tmp_path):
    mirror = shared("corpora")
    project = Project(tmp_path / "real", {"BDH_CORPORA_MIRROR": str(mirror)})
    project.set(variants=["bdh", "transformer"], corpora=["shakespeare", "transcripts"], device="cpu")
    project.set(**{"hebbian.laptop.max_tokens": 4096, "frontier.laptop.max_tokens": 1024, "frontier.twins": 1})
    project.repro()
    tokens = json.loads((project.folder / "data/tokens/transcripts/stats.json").read_text(encoding="utf-8"))
    assert tokens["tokenizer"]["vocab_size"] == 50257
    for variant, corpus in itertools.product(("bdh", "transformer"), ("shakespeare", "transcripts")):
        report = project.folder / f"reports/hebbian/{variant}-{corpus}-0.json"
        hebbian = json.loads(report.read_text(encoding="utf-8"))
        assert hebbian["arms"]["static"]["bits_per_byte"] < hebbian["unigram_bits_per_byte"], (variant, corpus)
