"""Stage `hebbian`: held-out text with frozen weights and living synapses."""

from __future__ import annotations

from typing import Any

import typer

from bdh import params, tracking
from bdh.corpora.tokens import TokenCorpus
from bdh.hebbian import evaluation, held_out
from bdh.hebbian.scores import headline
from bdh.project.device import choose_device, fix_seed, reads_in_bfloat16
from bdh.project.errors import reported
from bdh.project.files import HEBBIAN, RESULTS, RUNS, TOKENS, run_key
from bdh.project.origin import keep_origin
from bdh.project.processes import stoppable
from bdh.training.checkpoints import divergence, load_run


@reported
def main(variant: str, corpus: str, seed: int) -> None:
    """Read the test split of CORPUS with the run VARIANT-CORPUS-SEED, every arm on the same tokens."""
    settings, key = params.load(), run_key(variant, corpus, seed)
    size, device = settings.hebbian_scale(), choose_device(settings.device, settings.threads)
    fix_seed(seed, device)
    tags = {"scale": settings.scale, "variant": variant, "corpus": corpus, "seed": str(seed)}
    named = settings.hebbian.model_dump(exclude={"laptop", "gpu"}) | size.model_dump()
    report = RESULTS / "hebbian" / f"{key}.json"
    identity: dict[str, Any] = {"variant": variant, "corpus": corpus, "seed": seed}
    if (diverged := divergence(RUNS / key)) is not None:
        with tracking.tracked("hebbian", key, params=named, tags=tags):
            evaluation.write_absent(diverged, report, identity, HEBBIAN / key)
            keep_origin("hebbian", key)
        return
    model, _ = load_run(RUNS / key, device)
    tokens = TokenCorpus.open(TOKENS / corpus)
    text = held_out.cut(tokens, "test", size.window, size.max_tokens)
    with stoppable(), tracking.tracked("hebbian", key, params=named, tags=tags) as tracker:
        tracker.log_dataset(corpus, tokens.digest[:36], str(TOKENS / corpus), "test")
        found = evaluation.evaluate(
            model, text, settings.hebbian, device=device, bfloat16=reads_in_bfloat16(settings.precision, device)
        )
        identity["unigram_bits_per_byte"] = held_out.unigram_of(tokens, text)
        evaluation.write(found, report, identity, HEBBIAN / key)
        tracker.log_metrics(headline(found.report))
        keep_origin("hebbian", key)


if __name__ == "__main__":
    typer.run(main)
