"""The pipeline on the real corpora, where they lie beside the checkout."""

import itertools
import json

import pytest

from tests.support.project import Project
from tests.support.shared import shared

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1500)]
SMALL = {"n_embd": 32, "n_layer": 1}
SHAKESPEARE = {"steps": 160, "batch_size": 2, "window": 128, "learning_rate": 0.015, "validation_windows": 8}
BDH = {"steps": 100, "batch_size": 4, "window": 128, "learning_rate": 0.015, "validation_windows": 8}
# glibc would give the logits of 50,257 tokens back to the system after every step, which costs a fifth of the time
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def test_pipeline_runs_on_the_real_corpora(tmp_path):
    """Steps are few but enough to pass a unigram; a transformer on transcripts needs those of params.yaml for it."""
    mirror = shared("corpora")
    project = Project(tmp_path / "real", {"BDH_CORPORA_MIRROR": str(mirror)} | KEEP_MEMORY)
    project.set(variants=["bdh", "transformer"], corpora=["shakespeare", "transcripts"], device="cpu")
    project.set(**{"hebbian.laptop.max_tokens": 4096, "frontier.laptop.max_tokens": 1024, "frontier.twins": 1})
    project.set(**{"corpus.shakespeare.scales.laptop": {"model": SMALL, "train": SHAKESPEARE}})
    project.set(**{"variant.bdh": {"model": SMALL, "train": BDH}})
    project.repro()
    tokens = json.loads((project.folder / "data/tokens/transcripts/stats.json").read_text(encoding="utf-8"))
    assert tokens["tokenizer"]["vocab_size"] == 50257
    for variant, corpus in itertools.product(("bdh", "transformer"), ("shakespeare", "transcripts")):
        report = project.folder / f"reports/hebbian/{variant}-{corpus}-0.json"
        hebbian = json.loads(report.read_text(encoding="utf-8"))
        assert hebbian["arms"]["static"]["bits_per_byte"] < hebbian["unigram_bits_per_byte"], (variant, corpus)
