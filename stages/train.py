"""Train one variant on one corpus from one seed, or go on where a killed training stopped.

Several GPUs: `train.devices` in params.yaml, or by hand on one or more machines
`torchrun --nnodes=... --nproc-per-node=... -m stages.train VARIANT CORPUS SEED`.
"""

from __future__ import annotations

import typer

from bdh.params import load
from bdh.project.errors import reported
from bdh.project.files import run_key
from bdh.project.processes import stoppable
from bdh.tracking import tracked
from bdh.training.distributed.launch import launch
from bdh.training.distributed.worker import joined
from bdh.training.run import describe, held, learn, ranks_of, write

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@reported
def main(variant: str, corpus: str, seed: int) -> None:
    """Train VARIANT on CORPUS from SEED; writes data/runs/<key> and train, history and timing in data/results."""
    params = load()
    ranks = ranks_of(params, variant, corpus)
    if ranks > 1:
        launch(ranks, ["-m", "stages.train", variant, corpus, str(seed)], run_key(variant, corpus, seed))
        return
    with stoppable() as stop, joined(stop, params.device) as group:
        run = describe(params, variant, corpus, seed, group)
        tags = {"scale": params.scale, "variant": variant, "corpus": corpus, "seed": str(seed)}
        with (
            held(run, stop) as folder,
            tracked("train", run.key, params=run.settings(), tags=tags, resume_folder=folder.path) as tracker,
        ):
            training = learn(run, folder, stop, tracker)
            write(run, training, folder, tracker)


if __name__ == "__main__":
    app()
