"""Stage `frontier`: frontier metrics of one run beside their nulls and its untrained twins."""

from __future__ import annotations

import typer

from bdh import params, tracking
from bdh.corpora.tokens import TokenCorpus
from bdh.frontier import rows, twins
from bdh.frontier import run as frontier
from bdh.frontier.survey import texts_of
from bdh.hebbian import coactivation
from bdh.project.device import choose_device, fix_seed
from bdh.project.errors import reported
from bdh.project.files import HEBBIAN, RESULTS, RUNS, TOKENS, TWINS, run_key, shape_key, write_json
from bdh.project.origin import keep_origin
from bdh.project.processes import stoppable
from bdh.training.checkpoints import divergence, load_run


@reported
def main(variant: str, corpus: str, seed: int) -> None:
    """Measure the run VARIANT-CORPUS-SEED on the test split of CORPUS."""
    settings, key = params.load(), run_key(variant, corpus, seed)
    device, options = choose_device(settings.device, settings.threads), settings.frontier
    size, report = settings.frontier_scale(), RESULTS / "frontier" / f"{key}.json"
    curves, identity = RESULTS / "curves" / f"{key}.csv", {"variant": variant, "corpus": corpus, "seed": seed}
    fix_seed(seed, device)
    tags = {"scale": settings.scale, "variant": variant, "corpus": corpus, "seed": str(seed)}
    named = options.model_dump(exclude={"laptop", "gpu", "jobs"}) | size.model_dump()
    if (diverged := divergence(RUNS / key)) is not None:
        with tracking.tracked("frontier", key, params=named, tags=tags):
            write_json(report, identity | frontier.not_measured(diverged))
            rows.save(curves, [])
            keep_origin("frontier", key)
        return
    model, config = load_run(RUNS / key, device)
    state, window = coactivation.load(HEBBIAN / key / "coactivation.safetensors")
    untrained = twins.load(TWINS / f"{shape_key(variant, corpus)}.json", config)
    run = frontier.Trained(model, frontier.stage_b_of(RESULTS / "hebbian" / f"{key}.json"), state, untrained)
    tokens = TokenCorpus.open(TOKENS / corpus)
    texts = texts_of(tokens, window, size.max_tokens)
    with stoppable(), tracking.tracked("frontier", key, params=named, tags=tags) as tracker:
        tracker.log_dataset(corpus, tokens.digest[:36], str(TOKENS / corpus), "test")
        found, points = frontier.measure(run, texts, options, device, bfloat16=settings.precision == "bfloat16")
        write_json(report, identity | found)
        rows.save(curves, points)
        keep_origin("frontier", key)


if __name__ == "__main__":
    typer.run(main)
