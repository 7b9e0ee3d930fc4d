"""Controls of the metrics of graphs: TMI, degrees, the graph of the state."""

from __future__ import annotations

import functools

import numpy as np
import torch

from bdh.frontier import degrees, state_graph, tmi
from bdh.models.base import GraphFactors, LanguageModel, Output
from bdh.params import Frontier
from benchmarks.control_text import text
from benchmarks.controls import NULL, PLANTED, TWINS, Control, Row

DRAWS = 60
HEADS, NEURONS, WIDTH, GROUPS = 2, 96, 24, 6
POOL = 100


def settings(**changes) -> Frontier:
    """Small settings of stage frontier; `changes` by key."""
    small = {
        "top_share": 0.03,
        "communities": "louvain",
        "restarts": 1,
        "graph_nulls": 5,
        "null_draws": DRAWS,
        "bootstrap": DRAWS,
        "twins": TWINS,
        "jobs": 1,
        "laptop": {"max_tokens": 2048},
        "gpu": {"max_tokens": 2048},
    }
    return Frontier(**small | changes)


def factors(decoder: np.ndarray, encoder: np.ndarray) -> GraphFactors:
    """Factors of HEADS heads from vectors per neuron (n,D) each."""
    encoder_HDN = torch.tensor(encoder, dtype=torch.float32).view(HEADS, NEURONS, WIDTH).transpose(1, 2)
    return GraphFactors(torch.tensor(decoder, dtype=torch.float32), encoder_HDN.contiguous())


def random_graph(seed: int) -> GraphFactors:
    generator = np.random.default_rng([seed, 1])
    return factors(*generator.normal(size=(2, HEADS * NEURONS, WIDTH)))


def planted_graph(seed: int, strength: float = 0.7, dealt: bool = False) -> GraphFactors:
    """Neurons of a group write along the direction that neurons of the same group read; `dealt`: of any group."""
    generator = np.random.default_rng([seed, 2])
    group, directions = generator.integers(0, GROUPS, HEADS * NEURONS), generator.normal(size=(GROUPS, WIDTH))
    decoder, encoder = (generator.normal(size=(group.size, WIDTH)) + strength * directions[group] for _ in range(2))
    if dealt:
        encoder = np.concatenate([part[generator.permutation(NEURONS)] for part in np.split(encoder, HEADS)])
    return factors(decoder, encoder)


def aligned_graph(seed: int, cosine: float, fall: float = 0.0) -> GraphFactors:
    """No groups, but every neuron writes about what it reads; `fall`: power of the decay of the spectrum."""
    generator = np.random.default_rng([seed, 11])
    spectrum = np.arange(1, WIDTH + 1) ** -fall
    read, other = generator.normal(size=(2, HEADS * NEURONS, WIDTH)) * spectrum
    return factors(cosine * read + np.sqrt(1 - cosine**2) * other, read)


def heavy_graph(seed: int, alignment: float = 0.0) -> GraphFactors:
    """No groups: read and write vectors of a neuron are equally long, some neurons' far longer than others'."""
    generator = np.random.default_rng([seed, 12])
    graph = aligned_graph(seed, alignment)
    norm = torch.tensor(np.exp(generator.normal(size=HEADS * NEURONS)), dtype=torch.float32)
    encoder_HDN = graph.encoder * norm.view(HEADS, 1, NEURONS)
    return GraphFactors(graph.decoder * norm[:, None], encoder_HDN)


@functools.cache
def twin_numbers(kind: str, number: int) -> Row:
    """Number `number` of a pool of untrained twins."""
    if kind == "degrees":
        return degrees.numbers(np.random.default_rng([number, 13]).geometric(0.08, 500))
    if kind == "state_graph":
        stranger = Follower(40_000 + number, stranger=True)
        return state_graph.numbers(stranger, text(lengths=(512,) * 3, seed=number, vocab=64), "cpu", settings())
    return tmi.numbers(random_graph(10_000 + number), settings(), number % TWINS)


def twins(kind: str, seed: int) -> list[Row]:
    """20 of the pool of 100 untrained twins."""
    chosen = np.random.default_rng([seed, 14]).permutation(POOL)[:TWINS]
    return [found for number in chosen.tolist() if (found := twin_numbers(kind, number))]


def tmi_of(seed: int, graph: GraphFactors) -> Row:
    return tmi.measure(graph, twins("tmi", seed), settings())[0]


def degrees_of(seed: int, kind: str) -> Row:
    generator = np.random.default_rng([seed, 9])
    draw = {
        "geometric": lambda: generator.geometric(0.08, 500),
        "lognormal": lambda: np.ceil(generator.lognormal(2.0, 1.0, 500)).astype(int),
        "power law 2.3": lambda: generator.zipf(2.3, 500),
        "power law 2": lambda: generator.zipf(2.0, 500),
        "power law 1.8": lambda: np.minimum(generator.zipf(1.8, 500), 10**6),
    }[kind]
    return degrees.row(draw(), twins("degrees", seed))


class Follower(LanguageModel):
    """A model whose state notes, at the neuron of every token, the written vector of the token after it.

    One layer, one head, a neuron per token. A `stranger` notes other vectors than its decoder writes.
    """

    def __init__(self, seed: int, vocab: int = 64, stranger: bool = False) -> None:
        """Random vectors."""
        super().__init__()
        self.vocab_size = vocab
        generator = torch.Generator().manual_seed(seed)
        self.written = torch.nn.Parameter(torch.randn(vocab, WIDTH, generator=generator))
        self.noted = torch.randn(vocab, WIDTH, generator=generator) if stranger else self.written.detach()

    def initial_state(self, batch_size: int) -> dict:
        """rho: B,1,1,N,D."""
        return {"rho": torch.zeros(batch_size, 1, 1, self.vocab_size, WIDTH)}

    def forward(self, tokens_BT, targets_BT=None, state=None) -> Output:
        """Logits are zero."""
        rho = state["rho"].clone()
        for row, tokens in enumerate(tokens_BT):
            rho[row, 0, 0].index_add_(0, tokens[:-1], self.noted[tokens[1:]])
        return Output(torch.zeros(*tokens_BT.shape, self.vocab_size), None, {"rho": rho})

    def graph_factors(self) -> GraphFactors:
        """The written vectors, twice."""
        return GraphFactors(self.written, self.written.T[None])


def state_of(seed: int, topics: bool) -> Row:
    """`topics`: tokens of one of eight topics follow each other for 16 tokens; otherwise any token follows any."""
    generator = np.random.default_rng([seed, 10])
    held_out = text(lengths=(512,) * 3, seed=seed, vocab=64)
    if topics:
        topic = np.repeat(generator.integers(0, 8, held_out.scored // 16), 16)
        held_out.inputs[:] = topic * 8 + generator.integers(0, 8, held_out.scored)
    own = Follower(seed, stranger=not topics)
    return state_graph.measure(own, twins("state_graph", seed), held_out, "cpu", settings())[0]


def controls() -> list[Control]:
    """The controls of this module."""
    found = [
        Control("tmi", NULL, "random factors", lambda seed: tmi_of(seed, random_graph(seed))),
        Control(
            "tmi",
            NULL,
            "planted groups, encoder dealt to other neurons",
            lambda seed: tmi_of(seed, planted_graph(seed, dealt=True)),
        ),
        Control(
            "tmi", NULL, "equal heavy norms of read and write vectors", lambda seed: tmi_of(seed, heavy_graph(seed))
        ),
        Control(
            "tmi",
            NULL,
            "equal heavy norms, vectors aligned, cosine 0.3",
            lambda seed: tmi_of(seed, heavy_graph(seed, 0.3)),
        ),
        Control("degrees", NULL, "geometric degrees", lambda seed: degrees_of(seed, "geometric")),
        *(
            Control(
                "degrees", PLANTED, f"power law, exponent {e}", lambda seed, e=e: degrees_of(seed, f"power law {e}")
            )
            for e in ("2.3", "2", "1.8")
        ),
        Control("degrees", PLANTED, "lognormal", lambda seed: degrees_of(seed, "lognormal")),
        Control("state_graph", NULL, "any token follows any", lambda seed: state_of(seed, topics=False)),
        Control("state_graph", PLANTED, "topics of 16 tokens", lambda seed: state_of(seed, topics=True)),
    ]
    for cosine in (0.15, 0.3, 0.6):
        name = f"no groups, read and write vectors aligned, cosine {cosine:g}"
        found.append(Control("tmi", NULL, name, lambda seed, c=cosine: tmi_of(seed, aligned_graph(seed, c))))
    name = "no groups, vectors aligned, cosine 0.6, spectrum that falls"
    found.append(Control("tmi", NULL, name, lambda seed: tmi_of(seed, aligned_graph(seed, 0.6, fall=0.5))))
    for strength in (0.4, 0.5, 0.6, 0.7):
        name = f"planted groups, strength {strength:g}"
        found.append(Control("tmi", PLANTED, name, lambda seed, s=strength: tmi_of(seed, planted_graph(seed, s))))
    return found
