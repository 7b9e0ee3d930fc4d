"""Controls of the frontier metrics: what holds no structure, and what holds a planted one.

Every control is a function of a seed that returns a row of its metric; sizes are small, so that hundreds can be run.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from bdh.frontier import degrees, mcl, sec, sps, state_graph, tmi
from bdh.frontier.concepts import Labelled
from bdh.frontier.survey import Activations, Reading, Updates
from bdh.hebbian.held_out import HeldOut
from bdh.models.base import GraphFactors, LanguageModel, Output
from bdh.params import Frontier

DRAWS = 60
HEADS, NEURONS, WIDTH, GROUPS = 2, 96, 24, 6
TWINS = 3


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


def text(lengths=(256,) * 8, window=64, seed=0, vocab=48) -> HeldOut:
    """Documents of random tokens."""
    generator = np.random.default_rng(seed)
    inputs = generator.integers(0, vocab, sum(lengths))
    whole = np.concatenate([np.full(length // window, window) for length in lengths])
    document = np.repeat(np.arange(len(lengths)), [length // window for length in lengths])
    return HeldOut(
        inputs=inputs,
        targets=np.roll(inputs, -1),
        bounds=np.concatenate([[0], np.cumsum(whole)]),
        document=document,
        position=np.concatenate([np.arange(1, length + 1) for length in lengths]),
        token_bytes=np.ones(inputs.size, dtype=np.int64),
        documents=pd.DataFrame({"id": range(len(lengths))}),
        window=window,
    )


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


def heavy_graph(seed: int) -> GraphFactors:
    """No groups; a neuron reads and writes with one strength, and strengths are lognormal."""
    generator = np.random.default_rng([seed, 12])
    strength = generator.lognormal(size=(HEADS * NEURONS, 1))
    return factors(*(generator.normal(size=(2, HEADS * NEURONS, WIDTH)) * strength))


def tmi_of(seed: int, graph: GraphFactors) -> dict:
    twins = [tmi.numbers(random_graph(10_000 + TWINS * seed + twin), settings(), twin) for twin in range(TWINS)]
    return tmi.measure(graph, twins, settings())[0]


def gaussian_noise(hurst: float, points: int, generator: np.random.Generator, series: int = 8) -> np.ndarray:
    """Fractional Gaussian noise (series, points) by circulant embedding (Davies & Harte 1987)."""
    lag = np.arange(points, dtype=float)
    covariance = 0.5 * ((lag + 1) ** (2 * hurst) - 2 * lag ** (2 * hurst) + np.abs(lag - 1) ** (2 * hurst))
    power = np.clip(np.fft.fft(np.concatenate([covariance, covariance[-2:0:-1]])).real, 0.0, None)
    noise = generator.normal(size=(2, series, power.size))
    return np.fft.fft(np.sqrt(power / power.size) * (noise[0] + 1j * noise[1])).real[:, :points]


def short_memory(points: int, generator: np.random.Generator, keep: float = 0.5) -> np.ndarray:
    """A process that forgets within a few points (8, points)."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -keep], generator.normal(size=(8, points + 100)))[:, 100:])


def sps_of(seed: int, series: np.ndarray) -> dict:
    held_out, generator = text(), np.random.default_rng([seed, 3])
    noise = [sps.numbers(Updates(generator.normal(size=(8, held_out.scored))), held_out) for _ in range(TWINS)]
    orders = [sps.block_order(held_out.scored, generator) for _ in range(4)]
    again = [Updates(series[:, order]) for order in orders]
    return sps.measure(Updates(series), noise, again, held_out, 0.99, draws=DRAWS, seed=seed)[0]


def sps_series(seed: int, make) -> dict:
    return sps_of(seed, make(text().scored, np.random.default_rng([seed, 4])))


def reading(seed: int, held_out: HeldOut, coupling: float = 0.0, habit: float = 1.0) -> Reading:
    """Density and surprisal that both depend on the token, and share `coupling` beside it; both drift in common."""
    generator = np.random.default_rng([seed, 5])
    of_token = habit * generator.normal(size=int(held_out.inputs.max()) + 1)[held_out.inputs]
    surprise = np.abs(generator.normal(size=held_out.scored) + of_token)
    nats = np.append(surprise[1:], 0.0)
    density = np.abs(generator.normal(size=(2, held_out.scored)) + coupling * surprise + of_token)
    return Reading("xy_sparse", density / 10, nats, density[0] / 10)


def sec_of(seed: int, own: Reading, held_out: HeldOut) -> dict:
    twins = [sec.numbers(reading(20_000 + TWINS * seed + twin, held_out), held_out) for twin in range(TWINS)]
    return sec.measure(own, twins, held_out, draws=DRAWS, resamplings=DRAWS, seed=seed)[0]


def sec_coupled(seed: int, coupling: float) -> dict:
    held_out = text(seed=seed)
    return sec_of(seed, reading(seed, held_out, coupling), held_out)


def repeated_words(seed: int, shuffled: bool = False) -> dict:
    """A word of eight tokens over and over among fresh tokens; surprisal and density fall as it becomes known.

    Surprisal is that of counts of what followed each token so far. `shuffled`: the densities in random order.
    """
    generator = np.random.default_rng([seed, 6])
    held_out = text(seed=seed)
    inputs = held_out.inputs.copy()
    for start in range(0, inputs.size, 64):
        word = generator.permutation(48)[:8]
        inputs[start + 16 : start + 64] = np.tile(word, 6)
    counts = np.full((48, 48), 0.1)
    surprise = np.zeros(inputs.size)
    for at in range(1, inputs.size):
        row = counts[inputs[at - 1]]
        surprise[at] = -np.log(row[inputs[at]] / row.sum())
        counts[inputs[at - 1]] *= 0.8
        counts[inputs[at - 1], inputs[at]] += 1.0
    density = np.abs(0.02 * surprise + 0.05 * generator.normal(size=(2, inputs.size)) + 0.1)
    if shuffled:
        density = density[:, generator.permutation(inputs.size)]
    held_out.inputs[:] = inputs
    return sec_of(seed, Reading("xy_sparse", density, np.append(surprise[1:], 0.0), density[0]), held_out)


def labels(seed: int, documents: int = 12, windows: int = 4, window: int = 48) -> Labelled:
    """Two concepts that come in runs of 6 tokens and one of whole documents; token frequencies are unrelated."""
    generator = np.random.default_rng([seed, 7])
    M = documents * windows * window
    runs = np.repeat(generator.random((2, M // 6)) < 0.2, 6, axis=1)
    document = np.repeat(np.arange(documents), windows * window)
    sector = (generator.permutation(np.arange(documents) // 2) % 2 == 0)[document]
    return Labelled(
        names=["number", "currency", "sector: A"],
        concepts=np.stack([runs[0], runs[1] & ~runs[0], sector], axis=1),
        document=document,
        window=np.repeat(np.arange(documents * windows), window),
        frequency=generator.integers(0, 4, M),
        of_documents=[False, False, True],
    )


def activations(seed: int, labelled: Labelled, planted: float = 0.0, neurons: int = 64) -> Activations:
    """Sparse activations that drift from document to document and stay for a few tokens; a share of the neurons also
    fires at a third of the tokens of one concept."""
    generator = np.random.default_rng([seed, 8])
    M = labelled.document.size
    drift = generator.normal(size=(neurons, int(labelled.document.max()) + 1))[:, labelled.document]
    runs = np.repeat(generator.normal(size=(neurons, M // 4)), 4, axis=1)
    values = np.maximum(0.0, 0.5 * drift + runs + generator.normal(size=(neurons, M)) - 2.0)
    for neuron in range(round(planted * neurons)):
        inside = labelled.concepts[:, neuron % 2] & (generator.random(M) < 0.5)
        values[neuron, inside] += 3.0
    return Activations("xy_sparse", values.astype(np.float32))


def mcl_of(seed: int, planted: float) -> dict:
    labelled = labels(seed)
    twins = [mcl.numbers(activations(30_000 + TWINS * seed + twin, labelled), labelled) for twin in range(TWINS)]
    return mcl.measure(activations(seed, labelled, planted), twins, labelled, seed)[0]


def degrees_of(seed: int, kind: str) -> dict:
    generator = np.random.default_rng([seed, 9])
    draw = {
        "geometric": lambda: generator.geometric(0.08, 500),
        "lognormal": lambda: np.ceil(generator.lognormal(2.0, 1.0, 500)).astype(int),
        "power law": lambda: generator.zipf(2.3, 500),
    }[kind]
    own, twins = draw(), [degrees.numbers(generator.geometric(0.08, 500)) for _ in range(TWINS)]
    return degrees.row(own, [twin for twin in twins if twin])


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


def state_of(seed: int, topics: bool) -> dict:
    """`topics`: tokens of one of eight topics follow each other for 16 tokens; otherwise any token follows any."""
    generator = np.random.default_rng([seed, 10])
    held_out = text(lengths=(512,) * 3, seed=seed, vocab=64)
    if topics:
        topic = np.repeat(generator.integers(0, 8, held_out.scored // 16), 16)
        held_out.inputs[:] = topic * 8 + generator.integers(0, 8, held_out.scored)
    strangers = [Follower(40_000 + TWINS * seed + twin, stranger=True) for twin in range(TWINS)]
    twins = [state_graph.numbers(one, held_out, "cpu", settings()) for one in strangers]
    return state_graph.measure(Follower(seed, stranger=not topics), twins, held_out, "cpu", settings())[0]


NULL, PLANTED = "null", "planted"
CONTROLS = {
    ("tmi", NULL, "random factors"): lambda seed: tmi_of(seed, random_graph(seed)),
    ("tmi", NULL, "planted groups, encoder dealt to other neurons"): lambda seed: tmi_of(
        seed, planted_graph(seed, dealt=True)
    ),
    ("tmi", NULL, "no groups, neurons write what they read, cosine 0.3"): lambda seed: tmi_of(
        seed, aligned_graph(seed, 0.3)
    ),
    ("tmi", NULL, "no groups, neurons write what they read, cosine 0.6"): lambda seed: tmi_of(
        seed, aligned_graph(seed, 0.6)
    ),
    ("tmi", NULL, "no groups, cosine 0.6, spectrum that falls"): lambda seed: tmi_of(
        seed, aligned_graph(seed, 0.6, fall=0.5)
    ),
    ("tmi", NULL, "no groups, equal heavy norms"): lambda seed: tmi_of(seed, heavy_graph(seed)),
    ("tmi", PLANTED, "planted groups"): lambda seed: tmi_of(seed, planted_graph(seed)),
    ("sps", NULL, "memoryless updates"): lambda seed: sps_series(seed, lambda n, g: g.normal(size=(8, n))),
    ("sps", NULL, "memory of a few tokens"): lambda seed: sps_series(seed, short_memory),
    ("sps", PLANTED, "fractional Gaussian noise, H 0.7"): lambda seed: sps_series(
        seed, lambda n, g: gaussian_noise(0.7, n, g)
    ),
    ("sec", NULL, "what both owe to the token"): lambda seed: sec_coupled(seed, 0.0),
    ("sec", NULL, "repeated words, densities shuffled"): lambda seed: repeated_words(seed, shuffled=True),
    ("sec", PLANTED, "coupling 0.5"): lambda seed: sec_coupled(seed, 0.5),
    ("sec", PLANTED, "repeated words"): repeated_words,
    ("mcl", NULL, "neurons without concepts"): lambda seed: mcl_of(seed, 0.0),
    ("mcl", PLANTED, "a quarter of the neurons planted"): lambda seed: mcl_of(seed, 0.25),
    ("degrees", NULL, "geometric degrees"): lambda seed: degrees_of(seed, "geometric"),
    ("degrees", PLANTED, "power law, exponent 2.3"): lambda seed: degrees_of(seed, "power law"),
    ("degrees", PLANTED, "lognormal"): lambda seed: degrees_of(seed, "lognormal"),
    ("state_graph", NULL, "any token follows any"): lambda seed: state_of(seed, topics=False),
    ("state_graph", PLANTED, "topics of 16 tokens"): lambda seed: state_of(seed, topics=True),
}  # fmt: skip
DISTINCT = ("above its null", "below its null")


def fires(control: tuple[str, str, str], seed: int) -> bool:
    """Whether the metric tells the control from its null; a planted one must be above it."""
    verdict = CONTROLS[control](seed)["verdict"]
    return verdict == DISTINCT[0] if control[1] == PLANTED else verdict in DISTINCT
