"""Stage `frontier`: frontier metrics of one run beside their nulls and its untrained twins."""

from __future__ import annotations

import typer

from bdh import params, tracking
from bdh.corpora.tokens import TokenCorpus
from bdh.frontier import concepts, passages, rows
from bdh.frontier import run as frontier
from bdh.frontier.survey import Texts
from bdh.hebbian import coactivation, held_out
from bdh.project.device import choose_device, fix_seed
from bdh.project.errors import reported
from bdh.project.files import HEBBIAN, REPORTS, RUNS, TOKENS, read_json, run_key, write_json
from bdh.project.processes import stoppable
from bdh.training.checkpoints import load_run


@reported
def main(variant: str, corpus: str, seed: int) -> None:
    """Measure the run VARIANT-CORPUS-SEED on the test split of CORPUS."""
    settings, key = params.load(), run_key(variant, corpus, seed)
    device, options = choose_device(settings.device, settings.threads), settings.frontier
    fix_seed(seed, device)
    model, config = load_run(RUNS / key, device)
    state, window = coactivation.load(HEBBIAN / key / "coactivation.safetensors")
    run = frontier.Trained(model, config, read_json(REPORTS / "hebbian" / f"{key}.json"), state)
    tokens, size = TokenCorpus.open(TOKENS / corpus), settings.frontier_scale()
    text, spread = held_out.cut(tokens, "test", window, size.max_tokens), passages.spread(tokens, "test", window)
    texts = Texts(text, spread, None if spread is None else concepts.label(tokens, "test", spread))
    tags = {"scale": settings.scale, "variant": variant, "corpus": corpus, "seed": str(seed)}
    named = options.model_dump(exclude={"laptop", "gpu"}) | size.model_dump()
    with stoppable(), tracking.tracked("frontier", key, params=named, tags=tags) as tracker:
        tracker.log_dataset(corpus, tokens.digest[:36], str(TOKENS / corpus), "test")
        found, points = frontier.measure(run, texts, options, device, bfloat16=settings.precision == "bfloat16")
        report = REPORTS / "frontier" / f"{key}.json"
        write_json(report, {"variant": variant, "corpus": corpus, "seed": seed} | found)
        rows.save(REPORTS / "curves" / f"{key}.csv", points)
        tracker.log_file(report)


if __name__ == "__main__":
    typer.run(main)
