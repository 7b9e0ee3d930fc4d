"""Models in and out of the project, a look inside one, and a trained run with all that belongs to it.

`bdh.load("bdh-sample_plays-0")` is `load` of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bdh.corpora.tokenizer import Tokenizer
from bdh.corpora.tokenizer import load as load_tokenizer
from bdh.corpora.tokens import TokenCorpus
from bdh.generation import continue_text
from bdh.models.base import LanguageModel
from bdh.project.device import choose_device
from bdh.project.errors import RunError
from bdh.project.files import RUNS, TOKENS, find_root, read_json, result_path
from bdh.training.checkpoints import load_run

STAGES = ("train", "timing", "hebbian", "frontier")


@dataclass(frozen=True)
class TrainedRun:
    """A model in evaluation mode, its tokenizer, settings and results.

    key: `variant-corpus-seed`. folder: where its weights lie. config: its config.json. results: by stage (train,
    timing, hebbian, frontier) what the run's JSON of that stage holds; a stage without one is left out.
    """

    key: str
    folder: Path
    config: dict[str, Any]
    model: LanguageModel
    tokenizer: Tokenizer
    results: dict[str, dict[str, Any]]

    @property
    def test(self) -> dict[str, Any]:
        """Held-out text read window by window (arm `static`): bits_per_byte, perplexity and more; else empty."""
        return self.results.get("hebbian", {}).get("arms", {}).get("static", {})

    def generate(
        self, prompt: str, tokens: int = 200, temperature: float = 0.8, top_k: int | None = None, seed: int = 0
    ) -> str:
        """The text that the model writes after `prompt`, without it; RunError for what cannot be done."""
        ids = continue_text(self.model, self.tokenizer.encode(prompt), tokens, temperature, top_k, seed)
        return self.tokenizer.decode(list(islice(ids, tokens)))


def load(run: str, root: Path | None = None, device: str = "auto") -> TrainedRun:
    """The run with the key (or in the folder) `run` of the project at `root`, by default the one around this folder.

    `device` is auto, cpu or cuda. Raises RunError for a run that is not there, damaged or diverged.
    """
    here = Path.cwd()
    return open_run(run, here, device, find_root(here) if root is None else root)


def open_run(run: str, here: Path, device: str = "auto", base: Path = Path()) -> TrainedRun:
    """`load` where a path is relative to `here` and the project lies at `base`."""
    folder = find_run(run, here, base)
    model, config = load_run(folder, choose_device(device, torch.get_num_threads()))
    key = "-".join(str(config[part]) for part in ("variant", "corpus", "seed"))
    return TrainedRun(key, folder, config, model, tokenizer_of(folder, config, base), results_of(key, base))


def results_of(key: str, root: Path) -> dict[str, dict[str, Any]]:
    """What the stages wrote of a run, by stage."""
    paths = {stage: result_path(f"{stage}/{key}.json", root) for stage in STAGES}
    return {stage: read_json(path) for stage, path in paths.items() if path.exists()}


def find_run(name: str, here: Path, root: Path = Path()) -> Path:
    """Folder of a run given by key or by path (relative to `here`); an unknown one lists those that exist."""
    for folder in (root / RUNS / name, here / name):
        if (folder / "config.json").is_file():
            return folder
    known = sorted(path.parent.name for path in (root / RUNS).glob("*/config.json"))
    listed = f"known runs: {', '.join(known)}" if known else "there is none yet; `dvc repro` trains them"
    raise RunError(f"unknown run {name!r}; {listed}")


def tokenizer_of(folder: Path, config: dict[str, Any], root: Path = Path()) -> Tokenizer:
    """The tokenizer that a run was trained with, which lies in its folder; of an older run that of its corpus.

    Raises RunError when that corpus was tokenized anew since.
    """
    if "tokenizer" in config:
        return load_tokenizer(folder, config["tokenizer"])
    corpus = TokenCorpus.open(root / TOKENS / config["corpus"])
    if config.get("corpus_digest", corpus.digest) != corpus.digest or corpus.vocab_size != config["vocab_size"]:
        raise RunError(
            f"{folder}: corpus {corpus.name} was tokenized anew since this run was trained, its words are others; "
            "`dvc repro` trains it again"
        )
    return corpus.tokenizer
