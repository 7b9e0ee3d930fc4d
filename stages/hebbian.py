"""Stage hebbian: held-out text with frozen weights and living synapses."""

from __future__ import annotations

import typer

from bdh import params, tracking
from bdh.errors import reported
from bdh.files import HEBBIAN, REPORTS, RUNS, TOKENS, replacing, run_key, write_json


@reported
def main(variant: str, corpus: str, seed: int) -> None:
    """Evaluate the run `variant-corpus-seed` on the test split, every arm on the same tokens."""
    from bdh.corpora.tokens import TokenCorpus
    from bdh.device import choose_device
    from bdh.learning.checkpoints import load_run
    from bdh.plasticity import coactivation, evaluation, held_out
    from bdh.plasticity.results import headline

    settings, key = params.load(), run_key(variant, corpus, seed)
    size, device = settings.hebbian_scale(), choose_device(settings.device)
    model, _ = load_run(RUNS / key, device=str(device))
    tokens = TokenCorpus.open(TOKENS / corpus)
    text = held_out.cut(tokens, "test", size.window, size.max_tokens)
    rules = evaluation.rules_of(settings.hebbian)
    tags = {"variant": variant, "corpus": corpus, "seed": str(seed), "scale": settings.scale}
    with tracking.tracked("hebbian", key, params=settings.hebbian.model_dump(), tags=tags) as tracker:
        tracker.log_dataset(corpus, tokens.digest[:36], str(TOKENS / corpus), "test")
        found = evaluation.evaluate(model, text, rules, device=device, bfloat16=settings.precision == "bfloat16")
        report = REPORTS / "hebbian" / f"{key}.json"
        write_json(report, {"variant": variant, "corpus": corpus, "seed": seed} | found.report)
        coactivation.save(HEBBIAN / key / "coactivation.safetensors", found.coactivation, text.window)
        with replacing(HEBBIAN / key / "documents.parquet") as path:
            found.documents.to_parquet(path, index=False)
        tracker.log_metrics(headline(found.report))
        tracker.log_file(report)


if __name__ == "__main__":
    typer.run(main)
