"""Result files as the stages write them, made from a seed, for tests of the report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

LEVELS = {"bdh": 0.0, "transformer": 0.12, "bdh_structured": 0.03}
TAPS = {"transformer": ("mlp_sparse",)}
SPARSE = ("x_sparse", "y_sparse", "xy_sparse")
DOCUMENTS = 24


@dataclass(frozen=True)
class Axes:
    """What a comparison is over; stands in for the parameters, so that any name may be a variant."""

    variants: tuple[str, ...] = ("bdh", "transformer", "bdh_structured")
    corpora: tuple[str, ...] = ("sample_plays", "sample_calls")
    seeds: tuple[int, ...] = (0,)
    scale: str = "laptop"
    families: tuple[tuple[str, str], ...] = ()
    ablations: tuple[tuple[str, tuple[str, str, str]], ...] = ()
    settings: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()
    smallest_effect: float = 0.01
    recipe: str = "reference"

    @property
    def report(self) -> SimpleNamespace:
        return SimpleNamespace(smallest_effect=self.smallest_effect)

    def hebbian_scale(self) -> SimpleNamespace:
        return SimpleNamespace(window=128)

    def architecture_of(self, variant: str) -> str:
        return self.family_of(variant)

    def _of(self, variant: str, part: str) -> dict:
        given = dict(dict(self.settings).get(variant, ()))
        return {name.removeprefix(part): value for name, value in given.items() if name.startswith(part)}

    def model_of(self, variant: str, corpus: str) -> dict:
        """What `settings` names `model.<key>` for the variant."""
        return self._of(variant, "model.")

    def train_of(self, variant: str, corpus: str) -> SimpleNamespace:
        """What `settings` names `train.<key>` for the variant."""
        return SimpleNamespace(model_dump=lambda: self._of(variant, "train."))

    def family_of(self, variant: str) -> str:
        return dict(self.families).get(variant, variant.split("_")[0])

    def ablation_of(self, variant: str) -> tuple[str, str] | None:
        """(kind, mechanism) of the ablations that are given as (variant, (base, kind, mechanism))."""
        found = dict(self.ablations).get(variant)
        return None if found is None else found[1:]

    def sections_of(self, variant: str) -> list[str]:
        found = dict(self.ablations).get(variant)
        return [variant] if found is None else [variant, found[0]]

    def runs(self) -> list[tuple[str, str, int]]:
        return [(v, c, s) for v in self.variants for c in self.corpora for s in self.seeds]


def write_everything(root: Path, axes: Axes) -> None:
    """All result files of every run below `root`."""
    for corpus in axes.corpora:
        write_corpus(root, corpus)
    for place, (variant, corpus, seed) in enumerate(axes.runs()):
        write_run(root, variant, corpus, seed, axes.variants.index(variant), np.random.default_rng(place))


def write_corpus(root: Path, corpus: str) -> None:
    calls = "calls" in corpus or corpus == "transcripts"
    counts = {"train": (56, 303_112, 92_341), "validation": (8, 40_002, 12_444), "test": (DOCUMENTS, 61_220, 19_113)}
    made = corpus.startswith("sample_")
    origin = f"generator {corpus.split('_')[-1]}, seed 0, 48 documents" if made else "https://example.org/a.txt"
    stats = {
        "name": corpus,
        "digest": "cd" * 32,
        "tokenizer": {"name": "bpe" if calls else "bytes", "vocab_size": 1024 if calls else 256, "end_of_text": 0},
        "splits": {
            name: {"documents": documents, "tokens": tokens, "utf8_bytes": size, "first_date": None, "last_date": None}
            for name, (documents, size, tokens) in counts.items()
        },
        "removed": {"empty": 0, "repeated": 2, "other_sectors": 0},
        "unigram_bits_per_byte": 2.71 if calls else 4.62,
        "entropy_floor": {"train": 0.6, "validation": 0.6, "test": 0.61} if made else None,
        "provenance": [{"name": "a.txt", "origin": origin, "bytes": 9, "sha256": "ab" * 32, "licence": "MIT"}],
    }
    dump(root / f"data/tokens/{corpus}/stats.json", stats)
    dump(root / f"data/results/floors/{corpus}.json", floors(corpus))


def floors(corpus: str) -> dict:
    """n-gram models as stage floors writes them: the third order is chosen, the fourth is better on the test text."""
    rows = {}
    for kind, above in (("witten_bell", 0.02), ("kneser_ney", 0.0), ("ppm", 0.05)):
        for order, bits in enumerate((4.0, 2.2, 1.62, 1.61, 1.7, 1.8), start=1):
            judged = bits + above + (0.2 if order == 4 else 0.0)
            test = {"nats_per_token": (bits + above) * 2, "bits_per_byte": bits + above}
            rows[f"{kind}_{order}"] = test | {"validation_bits_per_byte": judged}
    chosen = {kind: f"{kind}_3" for kind in ("witten_bell", "kneser_ney", "ppm")} | {"strongest": "kneser_ney_3"}
    across = {f"kneser_ney_{n}": {"nats_per_token": 3.1, "bits_per_byte": 1.55} for n in range(1, 7)}
    found = {"corpus": corpus, "tokens": 21_196, "bytes": 63_588, "train_tokens": 92_341}
    return found | {"floors": rows, "chosen": chosen, "across_windows": across}


def write_run(root: Path, variant: str, corpus: str, seed: int, place: int, random: np.random.Generator) -> None:
    """One run; the `place` of its variant sets how good it is unless LEVELS names it."""
    key = f"{variant}-{corpus}-{seed}"
    level = LEVELS.get(variant, 0.02 + 0.035 * ((place * 7) % 16))
    final = 1.55 + level + 0.01 * float(random.standard_normal())
    ratio = 0.62
    taps = TAPS.get(variant.split("_")[0], SPARSE)
    steps = np.arange(0, 301, 50)
    nats = (final + 2.6 * np.exp(-steps / 60)) / ratio
    density = {name: 0.5 - 0.38 * (1 - np.exp(-steps / (80 + 20 * i))) for i, name in enumerate(taps)}
    who = {"variant": variant, "corpus": corpus, "seed": seed}
    dump(
        root / f"data/results/train/{key}.json",
        who
        | {
            "parameters": 148_480 + 21_000 * place,
            "parameters_without_embeddings": 115_712 + 21_000 * place,
            "flops_per_token_forward": 1.1e6 + 9e4 * place,
            "state_bytes": 0 if "transformer" in key else 1_048_576,
            "steps_done": 300,
            "tokens_seen": 614_400,
            "best_step": 300,
            "judged": "average",
            "validation/nats_per_token": float(nats[-1]),
            "validation/bits_per_byte": float(nats[-1] * ratio),
            **{f"density/{name}": float(values[-1]) for name, values in density.items()},
        },
    )
    dump(
        root / f"data/results/timing/{key}.json",
        {"seconds": 41.2, "tokens_per_s": 14_913.2 - 300 * place, "peak_memory_mib": 611.5, "device": "cpu",
         "torch": "2.13.0", "threads": 2},
    )  # fmt: skip
    history = {"step": steps, "train_nats": nats - 0.05, "validation_nats": nats, "validation_nats_average": nats,
               "learning_rate": np.full(len(steps), 1e-3), "gradient_norm": np.full(len(steps), 0.9)}  # fmt: skip
    for name, values in density.items():
        for layer in range(2):
            history[f"density_{name}_{layer}"] = values * (1 - 0.1 * layer)
    if "transformer" not in variant:
        history["state_norm_rho"] = 30 * (1 + steps / 100) * (1 + 0.1 * place)
        history["state_rank_rho"] = 40 - steps / 20 + place
    if "neuro" in variant:
        history["gain_0"] = 0.5 + steps / 1000
    save(root / f"data/results/history/{key}.csv", pd.DataFrame(history))
    write_evaluations(root, key, who, final, taps, random)
    dump(root / f"data/runs/{key}/samples.json", [{"prompt": "ANNA.", "text": " Good <evening> & good night"}])


def write_evaluations(
    root: Path, key: str, who: dict, final: float, taps: tuple[str, ...], random: np.random.Generator
) -> None:
    """Stage hebbian and stage frontier of one run."""
    carries = "transformer" not in key
    size = np.full(DOCUMENTS, 2500) + np.arange(DOCUMENTS) * 13
    nats = size * math.log(2) * (final + 0.08 * np.random.default_rng(1).standard_normal(DOCUMENTS))
    nats = nats + size * math.log(2) * 0.03 * random.standard_normal(DOCUMENTS)
    gains = {"static": 0.0, "carry": -0.021, "carry_corpus": 0.004, "shuffled": 0.0011, "observe": 0.0}
    gains |= {"overlap": -0.012, "overlap_quarter": -0.015}
    arms, tables = {}, []
    for arm, gain in gains.items():
        if not carries and arm in ("carry", "carry_corpus", "shuffled"):
            arms[arm] = {"bits_per_byte": None, "difference_to_static": None, "reason": "no state of constant size"}
            continue
        shifted = nats + gain * size * math.log(2) * (1 + 0.3 * random.standard_normal(DOCUMENTS))
        arms[arm] = arm_entry(shifted, nats, size, gain, "calls" in key or "transcripts" in key)
        row = {"arm": arm, "kind": "document", "id": np.arange(DOCUMENTS), "tokens": size // 3, "bytes": size}
        tables.append(pd.DataFrame(row | {"nats": shifted}))
    for entry in arms.values():
        compare_to_overlap(entry, arms["overlap"]["bits_per_byte"])
    report = {
        "tokens": int(size.sum() // 3), "bytes": int(size.sum()), "documents": DOCUMENTS,
        "questions": {"carry": "does the synaptic state help?", "observe": "what does coactivation do, unread?"},
        "arms": arms,
        "damping_sweep": {"rows": [sweep_row(d, arms["carry"]) for d in (0.95, 0.99, 1.0)] if carries else []},
        "density": {name: {"mean": 0.12, "layers": [0.11, 0.13]} for name in taps},
        "state": {"norm": 41.0, "effective_rank": 21.0, "half_life_tokens": 68.97,
                  "half_life_measured_tokens": 44.0 if carries else None},
    }  # fmt: skip
    dump(root / f"data/results/hebbian/{key}.json", who | report)
    path = root / f"data/hebbian/{key}/units.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables, ignore_index=True).to_parquet(path, index=False)
    metric = {"value": 0.31, "ci_low": 0.28, "ci_high": 0.34, "untrained_mean": 0.25, "untrained_sd": None}
    metric |= {"null": "permuted", "null_mean": 0.24, "null_sd": 0.02, "z": 3.5, "p": 0.012, "n": 1024}
    metric |= {"reference_protocol": 0.11, "reference_protocol_untrained": 0.09, "verdict": "above its null"}
    metric |= {"nulls": {"permuted": {"mean": 0.24, "sd": 0.02, "p": 0.012}, "factors": {"mean": 0.2, "sd": 0.01}}}
    frontier = {
        "bits_per_byte": final, "perplexity": 9.1, "dead_neurons_share": 0.04, "weight_sparsity": {"exact_zeros": 0.01},
        "density": {name: {"mean": 0.12, "layers": [0.11, 0.13]} for name in taps},
        "tmi": metric if carries else {"value": None, "reason": "the model has no neuron graph"},
        "sps": metric | {"p": 0.61, "z": 0.4, "verdict": "not distinguishable from its null"},
        "sec": metric | {"verdict": "below its null"},
        "untrained": {"bits_per_byte": 8.0, "density": {name: {"mean": 0.5} for name in taps}},
    }  # fmt: skip
    dump(root / f"data/results/frontier/{key}.json", who | frontier)
    if carries:
        shares, lags = np.geomspace(0.001, 0.1, 8), np.arange(1, 9)
        save(root / f"data/results/curves/{key}.csv", pd.DataFrame({
            "metric": ["tmi"] * 16 + ["sps"] * 16,
            "x": [*(1e7 * shares), *(1e7 * shares), *lags, *lags],
            "y": [*(0.4 * shares**-0.1 - final / 9), *(0.3 * shares**-0.1 - 0.2), *(0.95**lags), *(0.93**lags)],
            "series": ["trained"] * 8 + ["permuted"] * 8 + ["innovations"] * 8 + ["snapshots (cosine)"] * 8,
        }))  # fmt: skip
    else:
        save(
            root / f"data/results/curves/{key}.csv",
            pd.DataFrame({"metric": ["sec"], "x": [1.0], "y": [0.1], "series": ["trained"]}),
        )


def write_diverged(root: Path, key: str) -> None:
    """The files of a run as they are when its training diverged at step 40."""
    variant, corpus, seed = key.split("-")
    who = {"variant": variant, "corpus": corpus, "seed": int(seed)}
    why = {"reason": "not measured: training diverged at step 40"}
    facts = {"parameters": 1000, "parameters_without_embeddings": 900, "flops_per_token_forward": 10, "state_bytes": 8}
    diverged = {"step": 40, "reason": "the loss is nan (learning rate 9)"}
    dump(root / f"data/results/train/{key}.json", who | facts | {"diverged": diverged})
    dump(root / f"data/results/timing/{key}.json", {"seconds": 1.0, "tokens_per_s": None, "device": "cpu"})
    save(
        root / f"data/results/history/{key}.csv",
        pd.DataFrame({"step": [0], "validation_nats": [5.5], "density_x_0": [1.0]}),
    )
    nothing = {"arms": {}, "damping_sweep": {"rows": []}, "density": {}, "state": {}, "coactivation": None}
    dump(root / f"data/results/hebbian/{key}.json", who | why | nothing)
    absent = {"value": None, "verdict": "not measurable", "nulls": {}} | why
    dump(
        root / f"data/results/frontier/{key}.json", who | why | {"density": {}} | dict.fromkeys(("tmi", "sps"), absent)
    )
    save(root / f"data/results/curves/{key}.csv", pd.DataFrame(columns=["metric", "x", "y", "series"]))
    for name in (f"data/runs/{key}/samples.json", f"data/hebbian/{key}/units.parquet"):
        (root / name).unlink(missing_ok=True)


def arm_entry(nats: np.ndarray, static: np.ndarray, size: np.ndarray, gain: float, strata: bool) -> dict:
    """One arm as stage hebbian writes it."""
    total, bits = int(size.sum()), 1 / math.log(2)
    difference = 0.0 if gain == 0.0 else float((nats - static).sum() / total * bits)
    own = float(nats.sum() / total * bits)
    part = {"bits_low": own - 0.1, "bits_high": own + 0.1, "tokens": 700, "bytes": 2500, "documents": 8}
    part |= {"difference_to_static": difference, "ci_low": difference - 0.1, "ci_high": difference + 0.1}
    few = part | dict.fromkeys(("difference_to_static", "ci_low", "ci_high", "bits_low", "bits_high"))
    few |= {"reason": "not measurable: too few", "documents": 2}
    years = {str(y): part | {"bits_per_byte": own + 0.01 * i} for i, y in enumerate((2019, 2020, 2021))}
    sectors = {"Energy": part | {"bits_per_byte": own, "documents": 24}}
    roles = {"analyst": few | {"bits_per_byte": own}, "executive": part | {"bits_per_byte": own}}
    places = [(2**i, own + 2 / (1 + i) + gain * i / 4) for i in range(10)]
    return {
        "nats_per_token": own * 2.1,
        "bits_per_byte": own,
        "bits_low": own - 0.05,
        "bits_high": own + 0.05,
        "perplexity": math.exp(own * 1.4),
        "difference_to_static": difference,
        "ci_low": difference - abs(gain) / 3 - (0.008 if gain > 0 else 0.0),
        "ci_high": difference + abs(gain) / 3,
        "bootstrap_unit": "document",
        "documents": len(size),
        "by_year": years if strata else {},
        "by_sector": sectors if strata else {},
        "by_role": roles if strata else {},
        "by_position": [{"from": start, "to": 2 * start, "bits_per_byte": bits} for start, bits in places],
    }


def compare_to_overlap(entry: dict, overlap: float) -> None:
    """The numbers of one arm beside overlap, whole and by quarter of a window of 128 tokens; all in the first."""
    if entry["bits_per_byte"] is None:
        return
    gap = entry["bits_per_byte"] - overlap
    entry |= {"difference_to_overlap": gap, "overlap_low": gap - 0.002, "overlap_high": gap + 0.002}
    entry["by_window"] = [
        {"from": 32 * i, "to": 32 * i + 32, "bytes": 2500, "difference_to_overlap": value}
        | {"overlap_low": value - 0.002, "overlap_high": value + 0.002}
        for i, value in enumerate((4 * gap, 0.0, 0.0, 0.0))
    ]


def sweep_row(damping: float, carry: dict) -> dict:
    """One damping of arm carry as stage hebbian writes it: the less is forgotten, the more it helps."""
    kept = {name: carry[name] for name in ("bits_per_byte", "difference_to_static", "ci_low", "ci_high", "documents")}
    shift = (damping - 0.99) * 0.1
    life = None if damping == 1.0 else math.log(2) / -math.log(damping)
    moved = {name: kept[name] - shift for name in ("difference_to_static", "ci_low", "ci_high")}
    return kept | moved | {"damping": damping, "half_life_tokens": life, "half_life_measured_tokens": None}


def dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def save(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
