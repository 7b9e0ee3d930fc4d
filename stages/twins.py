"""Stage `twins`: what untrained models of one variant's shape show on one corpus; it depends on no training."""

from __future__ import annotations

import torch
import typer

from bdh import params
from bdh.corpora.tokens import TokenCorpus
from bdh.frontier import twins
from bdh.frontier.survey import texts_of
from bdh.hebbian import held_out
from bdh.project.device import choose_device, fix_seed
from bdh.project.errors import reported
from bdh.project.files import CODE, TOKENS, TWINS, read_json, shape_key, write_json
from bdh.project.processes import stoppable


@reported
def main(variant: str, corpus: str) -> None:
    """Measure the untrained twins of VARIANT on the test split of CORPUS, or take what a variant of its shape found."""
    settings = params.load()
    device, size = choose_device(settings.device, settings.threads), settings.hebbian_scale()
    tokens, key = TokenCorpus.open(TOKENS / corpus), shape_key(variant, corpus)
    stage_b = held_out.cut(tokens, "test", size.window, size.max_tokens)
    texts = texts_of(tokens, size.window, settings.frontier_scale().max_tokens)
    fix_seed(0, device)
    protocol = twins.Protocol(
        texts, stage_b, settings.frontier, settings.hebbian, device, settings.precision == "bfloat16"
    )
    shape = twins.Shape(settings.architecture_of(variant), tokens.vocab_size, settings.model_of(variant, corpus))
    with stoppable():
        found = twins.once(
            {
                "shape": shape.identity(),
                "corpus": [corpus, tokens.digest],
                "code": _code(key),
                "frontier": settings.frontier.model_dump(exclude={"laptop", "gpu", "jobs"})
                | settings.frontier_scale().model_dump(),
                "hebbian": settings.hebbian.model_dump(include={"damping", "eta", "snapshot_every"})
                | size.model_dump(),
                "machine": [device.type, settings.precision, settings.threads, torch.__version__],
            },
            lambda: twins.measure(shape, protocol),
        )
        write_json(TWINS / f"{key}.json", found)


def _code(key: str) -> dict[str, str]:
    """Fingerprints of the source files, as stage `code` found them."""
    path = CODE / "twins" / f"{key}.json"
    return read_json(path)["files"] if path.exists() else {}


if __name__ == "__main__":
    typer.run(main)
