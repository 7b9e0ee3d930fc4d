"""Golden vectors of `hebbian_block`: logits, the synapses at the end, and the share of active hidden units."""

from __future__ import annotations

from pathlib import Path

import torch

from bdh.golden.vectors import Vectors, read, relative_error
from bdh.models.base import build
from bdh.models.hebbian_block import HebbianBlock

SETTINGS = ("n_layer", "n_embd", "n_head")


def check(path: Path) -> dict[str, float]:
    """Relative error of every quantity in a `hebbian_block*` file, in the parallel form and token by token."""
    vectors = read(path)
    model = golden_model(vectors)
    tokens_BT = torch.from_numpy(vectors.arrays["idx"])
    with torch.no_grad():
        forms = {
            "": model(tokens_BT, state=model.initial_state(len(tokens_BT))),
            "_stepwise": model.stepwise(tokens_BT),
            "_without_state": model(tokens_BT),
        }
    errors = {}
    for form, output in forms.items():
        errors[f"logits{form}"] = relative_error(output.logits, vectors.arrays["logits"])
        if output.state is not None:
            errors[f"sigma{form}"] = relative_error(output.state["sigma"].transpose(0, 1), vectors.arrays["sigma"])
    density = [layer["mlp_sparse"] for layer in model.activation_statistics(tokens_BT)]
    return errors | {"mlp_density": relative_error(density, vectors.arrays["mlp_density"])}


def golden_model(vectors: Vectors) -> HebbianBlock:
    """`hebbian_block` in float64 with the weights of the file."""
    settings = {name: vectors.config[name] for name in SETTINGS}
    model = build("hebbian_block", vocab_size=vectors.config["vocab_size"], **settings)
    assert isinstance(model, HebbianBlock)
    model.double().load_state_dict({name: torch.from_numpy(array) for name, array in vectors.parameters.items()})
    return model.eval()


CHECKS = {"hebbian_block": check}
