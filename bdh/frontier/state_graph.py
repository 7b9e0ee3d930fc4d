"""The state graph: how the synapses that one stream of text leaves behind connect the neurons.

After reading a document the synaptic state rho of the last layer holds, per head, one vector of D numbers for every
neuron. Through the decoder it becomes a graph among neurons, decoder @ rho (the paper's section 6.2 has the full
matrix of which rho is the projection by the decoder): negative entries are dropped, the largest are kept as in TMI.

Value: Newman's Q of that graph, one Louvain run each, mean over streams and heads. Nulls: neurons
of rho permuted (same entries, no pairing), and the same documents with their tokens in random order, read again.
Untrained twins beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from bdh.frontier import degrees
from bdh.frontier.graph import Factors, largest_entries
from bdh.frontier.parallel import each
from bdh.frontier.rows import Measured, absent, metric_row
from bdh.frontier.tmi import FEWEST_EDGES, FEWEST_NEURONS, SEED, once, quality
from bdh.hebbian.held_out import HeldOut
from bdh.models.base import LanguageModel

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject
    from bdh.params import Frontier

STREAMS = 3
LONGEST = 512
SHORTEST = 64
PERMUTED = "permuted neurons"
SHUFFLED = "tokens in random order, read again"
NO_STATE = "this variant has no synaptic state with a vector per neuron"


@dataclass(frozen=True)
class Streams:
    """tokens: B,T, the starts of B documents cut to one length."""

    tokens: np.ndarray

    def shuffled(self, generator: np.random.Generator) -> Streams:
        """The same tokens of every stream in random order."""
        return Streams(generator.permuted(self.tokens, axis=1))


def streams_of(text: HeldOut) -> Streams | None:
    """The first 512 inputs of up to three documents, all cut to the shortest; None below 2 streams of 64 tokens."""
    document = text.token_document
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    lengths = np.diff(np.append(starts, document.size))
    longest = np.argsort(-lengths, kind="stable")[:STREAMS]
    longest = longest[lengths[longest] >= SHORTEST]
    if longest.size < 2:
        return None
    length = min(LONGEST, int(lengths[longest].min()))
    return Streams(np.stack([text.inputs[starts[at] : starts[at] + length] for at in longest]))


def compute(context: Context) -> Measured:
    """The row of the state graph of a run; there are no curves."""
    return measure(context.model, context.twins["state_graph"], context.texts.text, context.device, context.settings)


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers`; it draws no curve."""
    return numbers(subject.model, subject.texts.text, subject.device, subject.settings), []


def numbers(model: LanguageModel, text: HeldOut, device: torch.device | str, settings: Frontier) -> dict[str, float]:
    """The value of one model; none without such a state or with too little text."""
    streams = streams_of(text)
    if not _has_state(model) or streams is None:
        return {}
    return {"value": float(_over_heads(state_graphs(model, streams, device), once(settings)).mean())}


def measure(
    model: LanguageModel,
    twins: Sequence[Mapping[str, float]],
    text: HeldOut,
    device: torch.device | str,
    settings: Frontier,
) -> Measured:
    """The row of a model beside `numbers` of its untrained twins.

    Without such a state, or with too little text: null with a reason.
    """
    if not _has_state(model):
        return absent(NO_STATE), []
    settings = once(settings)
    streams = streams_of(text)
    if streams is None:
        return absent(f"fewer than 2 documents of {SHORTEST} tokens"), []
    graphs = state_graphs(model, streams, device)
    n, kept = graphs[0][0].neurons, round(settings.top_share * graphs[0][0].neurons ** 2)
    if n < FEWEST_NEURONS or kept < FEWEST_EDGES:
        return absent(f"{n} neurons per head and {kept} edges among them are too few"), []
    edges = [largest_entries(head, kept, "excitatory") for heads in graphs for head in heads]
    if not any(one.rows.size for one in edges):
        return absent("no entry of decoder @ rho is positive, the text leaves no synapses behind"), []
    generator = np.random.default_rng(SEED)
    own = _over_heads(graphs, settings)
    drawn = [[[head.permuted(generator) for head in heads] for heads in graphs] for _ in range(settings.graph_nulls)]
    texts = [streams.shuffled(generator) for _ in range(settings.graph_nulls)]
    permuted = _over_heads([heads for draw in drawn for heads in draw], settings)
    shuffled = _over_heads([heads for one in texts for heads in state_graphs(model, one, device)], settings)
    shape = {side: degrees.row(found, []) for side, found in degrees.degrees_of(edges).items()}
    row = metric_row(
        float(own.mean()),
        nulls={
            PERMUTED: permuted.reshape(settings.graph_nulls, -1).mean(1),
            SHUFFLED: shuffled.reshape(settings.graph_nulls, -1).mean(1),
        },
        interval=_over_streams(own),
        n=n * len(graphs[0]),
        untrained=[twin["value"] for twin in twins],
        reference=None,
        reference_untrained=[],
        streams=len(own),
        tokens=int(streams.tokens.shape[1]),
        entries=kept * len(graphs[0]),
        degrees={side: {name: found[name] for name in ("alpha", "law", "n") if name in found}
                 for side, found in shape.items()},
    )  # fmt: skip
    return row, []


def _has_state(model: LanguageModel) -> bool:
    return model.graph_factors() is not None and "rho" in model.initial_state(1)


def state_graphs(model: LanguageModel, streams: Streams, device: torch.device | str) -> list[list[Factors]]:
    """The graph of every head for every stream, after all of its tokens."""
    factors = model.graph_factors()
    assert factors is not None
    with torch.no_grad():
        tokens_BT = torch.from_numpy(streams.tokens).to(device)
        state = model.eval()(tokens_BT, state=model.initial_state(len(tokens_BT))).state
    H, D, N = factors.encoder.shape
    decoder_HND = factors.decoder.detach().float().cpu().numpy().reshape(H, N, D)
    rho_BHDN = _by_neuron(state["rho"][:, -1], D).float().cpu().numpy()
    return [[Factors(decoder_HND[head % H], rho_DN) for head, rho_DN in enumerate(rho_HDN)] for rho_HDN in rho_BHDN]


def _by_neuron(rho: Tensor, dim: int) -> Tensor:
    """rho of one layer as B,H,D,N, whichever of its last axes is D; kernels (K,D,N) are summed to one."""
    if rho.shape[-1] == dim:
        return rho.mT
    return rho.sum(1, keepdim=True)


def _over_heads(graphs: list[list[Factors]], settings: Frontier) -> np.ndarray:
    """Q of every stream, mean over its heads."""
    work = [partial(quality, graph, settings) for heads in graphs for graph in heads]
    return np.array(each(work, settings.jobs)).reshape(len(graphs), -1).mean(1)


def _over_streams(values: np.ndarray) -> tuple[float, float]:
    """95 % t interval of the mean over streams."""
    half = float(student.ppf(0.975, values.size - 1)) * float(values.std(ddof=1)) / values.size**0.5
    return float(values.mean()) - half, float(values.mean()) + half
