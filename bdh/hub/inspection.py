"""What a run does with a text: which neurons fire, what its state holds, who wrote it, what it was good for.

The text is read twice: at once, for the activity of neurons, and token by token with a state. For every prediction the
same token is read at the same position by a stream that has read nothing: the difference is what the state contributed.
Where the state has a part per layer, each of them is left out by itself too. Synapses are entries of the tensors `rho*`
and `sigma*`; what a token wrote there is by how much the entry changed, forgetting included. A cache of keys and values
is a state as well, with a size and a contribution, but without synapses.

Letters: T tokens, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bdh.hub import TrainedRun
from bdh.models.base import LanguageModel, State
from bdh.nn.probe import listening
from bdh.project.errors import RunError

MOST_TOKENS = 512
TAPS = ("xy_sparse", "mlp_sparse", "x_sparse", "y_sparse", "k_sparse", "q_sparse")
"""Activities that are neurons, the one first that is shown by default."""

WRITERS = 3
SHOWN = {"\n": "⏎", "\t": "⇥", " ": "␣"}
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def inspect_text(run: TrainedRun, text: str, tap: str | None = None, top: int = 16) -> dict[str, Any]:
    """All that `bdh inspect` shows, ready for JSON.

    tap: the activity to show; None takes the first of TAPS that the model has. top: so many neurons, those whose
    activity differs most over the text, and so many synapses, the largest. Raises RunError for a text that is too short
    or too long and for an unknown tap.
    """
    ids = run.tokenizer.encode(text)
    limit = min(run.model.max_positions() or MOST_TOKENS, MOST_TOKENS)
    if not 2 <= len(ids) <= limit:
        raise RunError(f"the text has {len(ids)} tokens; give 2 to {limit} of them")
    tokens = [show_token(run.tokenizer.decode([token])) for token in ids]
    with torch.no_grad():
        steps = list(_steps(run.model, ids))
        synapses = _synapses(run.model, ids, steps[-1], top)
        neurons = _neurons(run.model, ids, tap, top)
        predictions = [_prediction(run, ids, step, place) for place, step in enumerate(steps)]
    return {
        "run": run.key,
        "architecture": run.config["architecture"],
        "tokens": tokens,
        **neurons,
        "state": {"kind": _kind(steps[-1]["after"]), "norm": [_norm(step["after"]) for step in steps]},
        "synapses": synapses,
        "predictions": predictions,
    }


def show_token(piece: str) -> str:
    """A token as one sees it: white space has signs, a part of a character is a dot."""
    return (
        "".join(SHOWN.get(sign, sign if sign.isprintable() else "·") for sign in piece.replace(UNFINISHED, "·")) or "·"
    )


def _steps(model: LanguageModel, ids: list[int]) -> Iterator[dict[str, Any]]:
    """Token by token: logarithms of the probabilities (V) with the state, without it, and without each layer's part."""
    state = model.initial_state(1)
    for token in ids:
        fresh = model.initial_state(1) | {"position": state["position"]}
        with_V, after = _read(model, token, state)
        without_V, _ = _read(model, token, fresh)
        layers = [_read(model, token, _leave_out(state, layer))[0] for layer in range(_parts(model, state))]
        yield {"with": with_V, "without": without_V, "layers": layers, "after": after}
        state = after


def _read(model: LanguageModel, token: int, state: State) -> tuple[Tensor, State]:
    device = state["position"].device
    output = model(torch.tensor([[token]], device=device), state=state)
    assert output.state is not None
    return torch.log_softmax(output.logits[0, -1].double(), dim=-1).cpu(), output.state


def _synaptic(state: State) -> dict[str, Tensor]:
    return {name: part for name, part in state.items() if name.startswith(("rho", "sigma"))}


def _parts(model: LanguageModel, state: State) -> int:
    """Layers whose state can be left out by itself, 0 where it has no such parts."""
    parts = _synaptic(state).values()
    return model.layers if parts and model.layers > 1 and all(part.shape[1] == model.layers for part in parts) else 0


def _leave_out(state: State, layer: int) -> State:
    changed = {name: part.clone() for name, part in _synaptic(state).items()}
    for part in changed.values():
        part[:, layer] = 0.0
    return state | changed


def _kind(state: State) -> str:
    """What the norm is the norm of."""
    names = sorted(_synaptic(state)) or sorted(name for name in state if name != "position")
    return ", ".join(names)


def _norm(state: State) -> float:
    """Euclidean norm of the synapses, of keys and values where there are none."""
    parts = _synaptic(state) or {name: part for name, part in state.items() if name != "position"}
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts.values()))


def _prediction(run: TrainedRun, ids: list[int], step: dict[str, Any], place: int) -> dict[str, Any]:
    """What follows the token at `place`: bits of the true next token with and without the state (None at the end)."""
    raised = int((step["with"].exp() - step["without"].exp()).argmax())
    lowered = int((step["without"].exp() - step["with"].exp()).argmax())
    best = int(step["with"].argmax())
    row: dict[str, Any] = {
        name: show_token(run.tokenizer.decode([token]))
        for name, token in (("likeliest", best), ("raised", raised), ("lowered", lowered))
    }
    if place + 1 == len(ids):
        return row | dict.fromkeys(("bits", "bits_without_state", "state_bits", "layer_bits"))
    bits = {name: -float(step[name][ids[place + 1]]) / math.log(2) for name in ("with", "without")}
    layers = [-float(one[ids[place + 1]]) / math.log(2) - bits["with"] for one in step["layers"]]
    return row | {
        "bits": bits["with"],
        "bits_without_state": bits["without"],
        "state_bits": bits["without"] - bits["with"],
        "layer_bits": layers,
    }


def _neurons(model: LanguageModel, ids: list[int], tap: str | None, top: int) -> dict[str, Any]:
    """The neurons whose activity differs most over the text, and the share of all that fire at every token."""
    heard: dict[tuple[str, int], Tensor] = {}

    def listener(name: str, layer: int, tensor: Tensor) -> None:
        if name in TAPS:
            heard[name, layer] = tensor[0].detach().float().cpu()

    with listening(listener):
        model(torch.tensor([ids], device=model.initial_state(1)["position"].device))
    known = [name for name in TAPS if any(name == one for one, _ in heard)]
    if tap is not None and tap not in known:
        raise RunError(f"this model shows no activity {tap!r}; it shows {', '.join(known) or 'none'}")
    chosen = tap or next(iter(known), None)
    layers = {layer: part.reshape(-1, *part.shape[-2:]) for (name, layer), part in heard.items() if name == chosen}
    rows = [
        (float(spread), layer, head, neuron)
        for layer, part_HTN in layers.items()
        for head, spread_N in enumerate(part_HTN.std(dim=1))
        for spread, neuron in zip(*torch.topk(spread_N, min(top, len(spread_N))), strict=True)
    ]
    found = [
        {"layer": layer, "head": head, "neuron": int(neuron), "activity": layers[layer][head, :, int(neuron)].tolist()}
        for spread, layer, head, neuron in sorted(rows, key=lambda row: -row[0])[:top]
        if spread > 0
    ]
    density = {layer: (part != 0).float().mean(dim=(0, 2)).tolist() for layer, part in sorted(layers.items())}
    return {"activity": chosen, "activities": known, "neurons": found, "density": density}


def _synapses(model: LanguageModel, ids: list[int], last: dict[str, Any], top: int) -> list[dict[str, Any]]:
    """The largest entries of the state after the text, at most one per row, and the tokens that changed them most."""
    places: list[tuple[float, str, list[int]]] = []
    for name, part in _synaptic(last["after"]).items():
        rows = part[0].abs().flatten(0, -2)
        largest, columns = rows.max(dim=1)
        for row in torch.topk(largest, min(top, len(largest))).indices:
            index = [int(part_of) for part_of in torch.unravel_index(row, part.shape[1:-1])]
            places.append((float(largest[row]), name, [*index, int(columns[row])]))
    places = sorted(places, key=lambda place: -place[0])[:top]
    history: list[list[float]] = [[0.0] for _ in places]
    state = model.initial_state(1)
    for token in ids:
        _, state = _read(model, token, state)
        for values, (_, name, place) in zip(history, places, strict=True):
            values.append(float(state[name][(0, *place)]))
    found = []
    for values, (_, name, place) in zip(history, places, strict=True):
        changes = [after - before for before, after in pairwise(values)]
        order = torch.tensor(changes).abs().argsort(descending=True)[:WRITERS].tolist()
        written = [{"place": token, "change": changes[token]} for token in order if changes[token]]
        found.append({"tensor": name, "index": place, "value": values[-1], "writers": written})
    return [synapse for synapse in found if synapse["value"]]
