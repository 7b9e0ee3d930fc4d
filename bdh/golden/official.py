"""Golden vectors of the official model.

Outputs, gradients, penalties, the neuron graph, greedy continuation, and the coactivation state of its c vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bdh.generation import generate
from bdh.golden.vectors import Vectors, read, relative_error
from bdh.hebbian.coactivation import Coactivation, decay_weights, inner_products, pearson, sums
from bdh.models.base import LanguageModel, build
from bdh.nn.probe import listening

SETTINGS = ("n_layer", "n_embd", "n_head", "mlp_internal_dim_multiplier", "dropout")
GRADIENTS = ("encoder", "decoder", "encoder_v")
PROMPT = 4
DAMPING = 0.99
ETA = 0.005


def check(path: Path) -> dict[str, float]:
    """Relative error of every quantity in an `official_*` file."""
    vectors = read(path)
    model = official_model(vectors)
    parts = (_outputs, _structure, _carried, _greedy, coactivation)
    return {name: error for part in parts for name, error in part(model, vectors).items()}


def official_model(vectors: Vectors) -> LanguageModel:
    """`bdh` in float64 with the weights of the file."""
    settings = {name: vectors.config[name] for name in SETTINGS}
    model = build("bdh", vocab_size=vectors.config["vocab_size"], **settings).double()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in vectors.parameters.items()})
    return model.eval()


def _outputs(model: LanguageModel, vectors: Vectors) -> dict[str, float]:
    """The parallel form: logits, loss, its gradients, activations and their density, the L1 term."""
    expected = vectors.arrays
    activations: list[Tensor] = []

    def keep(name: str, layer: int, tensor: Tensor) -> None:
        if name == "x_sparse":
            activations.append(tensor.detach())

    model.measure_l1 = True
    with listening(keep):
        output = model(torch.from_numpy(expected["idx"]), torch.from_numpy(expected["targets"]))
    model.measure_l1 = False
    assert output.loss is not None
    assert output.l1 is not None
    output.loss.backward()
    density = [float((x_BHTN != 0).double().mean()) for x_BHTN in activations]
    errors = {
        "logits": relative_error(output.logits.detach(), expected["logits"]),
        "loss": relative_error(output.loss.detach(), expected["loss"]),
        "l1_penalty": relative_error(output.l1.detach(), expected["l1_penalty"]),
        "x_sparse_density": relative_error(density, expected["x_sparse_density"]),
        "x_sparse_layer0": relative_error(activations[0], expected["x_sparse_layer0"]),
    }
    for name in GRADIENTS:
        errors[f"grad_{name}"] = relative_error(model.get_parameter(name).grad, expected[f"grad_{name}"])
    return errors


@torch.no_grad()
def _structure(model: LanguageModel, vectors: Vectors) -> dict[str, float]:
    """What depends on the weights alone: the L2,1 term and the neuron graph, columns ordered h*N + n."""
    factors, l21 = model.graph_factors(), model.l21_penalty()
    assert factors is not None
    assert l21 is not None
    w_eff = factors.decoder @ factors.encoder.transpose(0, 1).flatten(1)
    return {
        "l21_penalty": relative_error(l21, vectors.arrays["l21_penalty"]),
        "w_eff": relative_error(w_eff, vectors.arrays["w_eff"]),
    }


@torch.no_grad()
def _carried(model: LanguageModel, vectors: Vectors) -> dict[str, float]:
    """The state form: logits read in chunks of 5 tokens with the state carried."""
    tokens_BT = torch.from_numpy(vectors.arrays["idx"])
    state = model.initial_state(tokens_BT.shape[0])
    logits = []
    for chunk_BT in tokens_BT.split(5, dim=1):
        output = model(chunk_BT, state=state)
        assert output.state is not None
        state = output.state
        logits.append(output.logits)
    return {"logits_carried": relative_error(torch.cat(logits, dim=1), vectors.arrays["logits"])}


def _greedy(model: LanguageModel, vectors: Vectors) -> dict[str, float]:
    """The most probable continuation, by reading the whole prefix again for every token and by the carried state."""
    expected = vectors.arrays["greedy"][0]
    prompt = expected[:PROMPT].tolist()
    count = len(expected) - PROMPT
    carried = prompt + list(islice(generate(model, prompt, count, temperature=0.0, top_k=None, seed=0), count))
    return {
        "greedy_reread": _same(lambda: reread(model, prompt, count), expected),
        "greedy_carried": _same(lambda: carried, expected),
    }


@torch.no_grad()
def reread(model: LanguageModel, prompt: list[int], count: int) -> list[int]:
    """`prompt` and its `count` most probable tokens, the whole text read again for each."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text


def _same(tokens: Callable[[], list[int]], expected: np.ndarray) -> float:
    """0 when all tokens agree, infinite otherwise: a wrong token is not a small error."""
    return 0.0 if np.array_equal(np.asarray(tokens()), expected) else float("inf")


def coactivation(model: LanguageModel, vectors: Vectors) -> dict[str, float]:
    """The coactivation state: sigma after three windows (layer 0), inner products, sums and Pearson correlations."""
    state = _read_windows(model, vectors)
    snapshots = np.arange(len(state.codes))
    weights_U = decay_weights(len(state.codes), snapshots, DAMPING, ETA)[-1]
    codes_UHN = state.codes[:, 0]
    products, totals = inner_products(state, snapshots), sums(state, snapshots)
    ours = {
        "sigma_after3_layer0": np.einsum("u,uhi,uhj->hij", weights_U, codes_UHN, codes_UHN),
        "sigma_inner_products": products,
        "sigma_sums": totals,
        "sigma_pearson": pearson(products, totals, state.entries),
    }
    return {name: relative_error(value, vectors.arrays[name]) for name, value in ours.items()}


def _read_windows(model: LanguageModel, vectors: Vectors) -> Coactivation:
    """The coactivation state of the model over the file's windows, one update each."""
    windows_UBT = vectors.arrays["windows"]
    codes: list[np.ndarray] = []

    def keep(name: str, layer: int, tensor: Tensor) -> None:
        if name == "x_sparse":
            codes.append(tensor.mean((0, 2)).numpy())

    with torch.no_grad(), listening(keep):
        for window_BT in windows_UBT:
            model(torch.from_numpy(window_BT))
    updates = len(windows_UBT)
    codes_ULHN = np.stack(codes).reshape(updates, -1, *codes[0].shape)
    nothing = np.zeros(updates, dtype=np.int64)
    return Coactivation(codes_ULHN, np.arange(1, updates + 1), nothing, DAMPING, ETA, snapshot_every=1)


CHECKS = {"official_": check}
