"""Controls on real networks: what trained BDH did, with the question taken out of it, and untrained nets among others.

`prepare` trains BDH with the laptop settings on both sample corpora, in `data/calibration`, and measures 60 untrained
networks of its shape; the controls read that.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdh.corpora.tokens import TokenCorpus
from bdh.frontier import mcl, sec, sps, tmi
from bdh.frontier.concepts import Labelled, RandomConcepts
from bdh.frontier.survey import Activations, Reading, Texts, Updates, activations, reading_of, texts_of, updates_of
from bdh.intervals import LEVEL, against_null
from bdh.models.base import GraphFactors, LanguageModel, build
from bdh.params import Params, load
from bdh.training.checkpoints import load_run
from benchmarks.control_graphs import settings
from benchmarks.controls import DISTINCT, NULL, TWINS, Control, Row

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "data/calibration"
CORPORA = ("sample_plays", "sample_calls")
METRICS = ("sec", "mcl", "sps", "tmi")
POOL = 60
SHUFFLES = 40
DRAWS = 100


@dataclass(frozen=True)
class Seen:
    """What one network did: SEC's reading, MCL's activations, SPS's updates, TMI's graph."""

    reading: Reading
    neurons: Activations
    updates: Updates
    graph: GraphFactors


def prepare(jobs: int = 1) -> None:
    """Train and measure, in `jobs` processes; what is there is left alone."""
    if not (FOLDER / "params.yaml").exists():
        for name in ("bdh", "stages"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, FOLDER / name, ignore=ignored, dirs_exist_ok=True)
        for name in ("dvc.yaml", "pyproject.toml", "params.yaml"):
            shutil.copy(ROOT / name, FOLDER / name)
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "BDH_TRACKING": "off"}
    for corpus in CORPORA:
        path = FOLDER / f"{corpus}.json"
        if path.exists():
            continue
        for stage in (("fetch", corpus), ("tokenize", corpus), ("train", "bdh", corpus, "0")):
            command = [sys.executable, "-m", f"stages.{stage[0]}", *stage[1:]]
            if not (FOLDER / "data/runs" / f"bdh-{corpus}-0/config.json").exists():
                subprocess.run(command, cwd=FOLDER, env=environment, check=True)
        with ProcessPoolExecutor(jobs) as pool:
            parts = list(pool.map(functools.partial(_numbers, corpus), range(POOL)))
        found = {metric: [part[metric] for part in parts] for metric in METRICS}
        path.write_text(json.dumps(found), encoding="utf-8")
        print(f"{path}: done", flush=True)


def prepared() -> bool:
    """Whether `prepare` has made everything."""
    return all((FOLDER / f"{corpus}.json").exists() for corpus in CORPORA)


@functools.cache
def _params() -> Params:
    return load(FOLDER / "params.yaml")


@functools.cache
def _run(corpus: str) -> tuple[LanguageModel, Row]:
    return load_run(FOLDER / "data/runs" / f"bdh-{corpus}-0", "cpu")


@functools.cache
def texts(corpus: str) -> Texts:
    """The text that the network was measured on."""
    tokens = TokenCorpus.open(FOLDER / "data/tokens" / corpus)
    return texts_of(tokens, _params().scales.laptop.train.window, _params().frontier_scale().max_tokens)


def labels_of(corpus: str) -> Labelled:
    """The concepts of the passages."""
    found = texts(corpus).labels
    assert found is not None
    return found


@functools.cache
def trained(corpus: str) -> Seen:
    """What the trained network did."""
    return _seen(_run(corpus)[0], corpus)


@functools.cache
def fresh(corpus: str, number: int) -> Seen:
    """What an untrained network did."""
    return _seen(_fresh(corpus, number), corpus)


@functools.cache
def untrained_numbers(corpus: str) -> dict[str, list[Row]]:
    """What `numbers` of every metric says of 60 untrained networks."""
    found: dict[str, list[Row]] = json.loads((FOLDER / f"{corpus}.json").read_text(encoding="utf-8"))
    return found


def _fresh(corpus: str, number: int) -> LanguageModel:
    config = _run(corpus)[1]
    return build(config["architecture"], vocab_size=config["vocab_size"], seed=-1 - number, **config["model"]).eval()


def _seen(model: LanguageModel, corpus: str) -> Seen:
    passages, text = texts(corpus).passages, texts(corpus).text
    assert passages is not None
    reading = reading_of(model, sec.text_of(texts(corpus)), "cpu", False)
    neurons = activations(model, passages.text, "cpu", False)
    updates, graph = updates_of(model, text, "cpu", False), model.graph_factors()
    assert reading is not None
    assert neurons is not None
    assert updates is not None
    assert graph is not None
    return Seen(reading, neurons, updates, GraphFactors(graph.decoder.detach(), graph.encoder.detach()))


def _numbers(corpus: str, number: int) -> dict[str, Row]:
    """What `numbers` of every metric says of an untrained network."""
    seen = _seen(_fresh(corpus, number), corpus)
    return {
        "sec": sec.numbers(seen.reading, sec.text_of(texts(corpus))),
        "mcl": mcl.numbers(seen.neurons, labels_of(corpus)),
        "sps": sps.numbers(seen.updates, texts(corpus).text),
        "tmi": tmi.numbers(seen.graph, settings(top_share=0.023), number % TWINS),
    }


def among_others(corpus: str, metric: str, seed: int) -> Row:
    """One untrained network against 20 others: the test of twins alone."""
    pool = [one["value"] for one in untrained_numbers(corpus)[metric] if one]
    own, *others = np.random.default_rng([seed, 20]).permutation(pool)[: TWINS + 1].tolist()
    found = against_null(own, np.array(others))
    side = 0 if found["p"] is None or found["p"] >= LEVEL else int(own > found["mean"]) - int(own < found["mean"])
    return {"verdict": {1: DISTINCT[0], -1: DISTINCT[1]}.get(side, "even")}


def dealt_surprisal(corpus: str, seed: int) -> Row:
    """SEC of the trained network, the surprisal of every document from another one, place by place."""
    text, reading = sec.text_of(texts(corpus)), trained(corpus).reading
    generator = np.random.default_rng([seed, 21])
    rows = [np.flatnonzero(text.token_document == one) for one in np.unique(text.document)]
    order = generator.permutation(len(rows))
    turn = {int(a): int(b) for a, b in zip(order, np.roll(order, 1), strict=True)}
    nats = reading.nats.copy()
    for one, places in enumerate(rows):
        nats[places] = np.resize(reading.nats[rows[turn[one]]], places.size)
    return sec.measure(dataclasses.replace(reading, nats=nats), [], text)[0]


def scrambled_density(corpus: str, seed: int) -> Row:
    """SEC of the trained network, its density with the same spectrum and random phases."""
    reading, generator = trained(corpus).reading, np.random.default_rng([seed, 22])
    spectrum = np.fft.rfft(reading.density)
    turned = spectrum * np.exp(2j * np.pi * generator.random(spectrum.shape[1]))
    turned[:, 0] = spectrum[:, 0]
    density = np.fft.irfft(turned, reading.density.shape[1])
    return sec.measure(dataclasses.replace(reading, density=density), [], sec.text_of(texts(corpus)))[0]


def random_concepts(corpus: str, seed: int, kind: str) -> Row:
    """MCL of the trained network, random concepts in the place of the real ones, judged by the nulls alone."""
    labels = labels_of(corpus)
    source, generator = RandomConcepts(labels), np.random.default_rng([seed, 23])
    concepts = source.sets(generator) if kind == "sets" else source.alike(generator)
    return mcl.measure(trained(corpus).neurons, [], dataclasses.replace(labels, concepts=concepts), seed)[0]


def dealt_documents(corpus: str, seed: int) -> Row:
    """MCL of the trained network, the labels of every document in the places of another one."""
    labels = labels_of(corpus)
    generator = np.random.default_rng([seed, 24])
    rows = [np.flatnonzero(labels.document == one) for one in np.unique(labels.document)]
    order = generator.permutation(len(rows))
    concepts = labels.concepts.copy()
    for one, places in enumerate(rows):
        other = labels.concepts[rows[int(order[one])]]
        concepts[places] = np.resize(other, (places.size, other.shape[1]))
    return mcl.measure(trained(corpus).neurons, [], dataclasses.replace(labels, concepts=concepts), seed)[0]


def shuffled_text(corpus: str, seed: int) -> Row:
    """SPS of the trained network, while it reads the tokens of the text in random order, judged by the nulls alone."""
    text = texts(corpus).text
    order = np.random.default_rng([seed, 27]).permutation(text.scored)
    shuffled = dataclasses.replace(text, inputs=text.inputs[order])
    return sps.measure(updates_of(_run(corpus)[0], shuffled, "cpu", False), [], text, 0.99, draws=DRAWS, seed=seed)[0]


def dealt_updates(corpus: str, seed: int) -> Row:
    """SPS of the trained network, its updates in blocks of 16 tokens in random order."""
    text = texts(corpus).text
    order = sps.block_order(text.scored, np.random.default_rng([seed, 25]))
    updates = Updates(trained(corpus).updates.projections[:, order])
    return sps.measure(updates, [], text, 0.99, draws=DRAWS, seed=seed)[0]


def untrained(corpus: str, metric: str, seed: int) -> Row:
    """One untrained network against its nulls and 20 others, the whole verdict."""
    number, pool = seed % POOL, untrained_numbers(corpus)[metric]
    twins = [one for at, one in enumerate(pool) if at != number and one]
    chosen = [twins[at] for at in np.random.default_rng([seed, 26]).permutation(len(twins))[:TWINS]]
    seen, read = fresh(corpus, number), texts(corpus)
    if metric == "sec":
        return sec.measure(seen.reading, chosen, sec.text_of(read))[0]
    if metric == "mcl":
        return mcl.measure(seen.neurons, chosen, labels_of(corpus), seed)[0]
    if metric == "sps":
        return sps.measure(seen.updates, chosen, read.text, 0.99, draws=DRAWS, seed=seed)[0]
    return tmi.measure(seen.graph, chosen, settings(top_share=0.023))[0]


def controls() -> list[Control]:
    """The controls of this module."""
    found = []

    def add(metric: str, name: str, make: Callable[[int], Row], most: int | None = None) -> None:
        found.append(Control(metric, NULL, name, make, most, nets=True))

    for corpus in CORPORA:
        of = f"({corpus})"
        for metric in METRICS:
            make = functools.partial(among_others, corpus, metric)
            add(metric, f"an untrained net among 20 others, test of twins alone {of}", make)
            make = functools.partial(untrained, corpus, metric)
            add(metric, f"an untrained net among 20 others {of}", make, POOL)
        add("sec", f"trained BDH, surprisal of other documents {of}", functools.partial(dealt_surprisal, corpus))
        add("sec", f"trained BDH, density of random phases {of}", functools.partial(scrambled_density, corpus))
        for kind, name in (("sets", "sets of tokens"), ("alike", "concepts with the shares and runs of real ones")):
            make = functools.partial(random_concepts, corpus, kind=kind)
            add("mcl", f"trained BDH, random {name} {of}", lambda seed, make=make: make(seed=seed))
        add("mcl", f"trained BDH, labels of other documents {of}", functools.partial(dealt_documents, corpus))
        add("sps", f"trained BDH reads shuffled text {of}", functools.partial(shuffled_text, corpus), SHUFFLES)
        add("sps", f"trained BDH, updates in random blocks {of}", functools.partial(dealt_updates, corpus))
    return found
