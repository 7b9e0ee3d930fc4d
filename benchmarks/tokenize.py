"""Whole tokenization of a corpus against a bare `encode_batch` loop of `tokenizers` over the same texts.

    python -m benchmarks.tokenize data/raw/transcripts --corpus transcripts --repeats 3

Ours is everything that stage `tokenize` does: check sha256, read parquet, join, deduplicate, split, encode, write
shards and tables. The bare loop holds all texts in memory and times `encode_batch` and the ids alone. Every
measurement runs in a process of its own, the two in turns, so that both meet the same load and peak memory is theirs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

RESULT = Path("benchmarks/results/tokenize.json")
BARE_BATCH = 64


def ours(corpus: str, raw: Path) -> dict[str, Any]:
    """Run the whole of stage `tokenize`; returns seconds, CPU seconds, tokens, UTF-8 bytes."""
    from bdh.corpora.build import tokenize_corpus
    from bdh.params import corpus_of, load

    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        stats = tokenize_corpus(corpus, corpus_of(load(), corpus), raw, Path(folder) / corpus)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    splits = stats["splits"].values()
    tokens = sum(split["tokens"] - split["documents"] for split in splits)
    return {"s": seconds, "cpu_s": cpu, "tokens": tokens, "bytes": sum(split["utf8_bytes"] for split in splits)}


def bare(corpus: str, raw: Path) -> dict[str, Any]:
    """Read all texts first, untimed; then time `encode_batch` and the ids as lists."""
    import pyarrow.parquet as pq

    from bdh.corpora.provenance import Provenance
    from bdh.corpora.tokenizer import BytePairs
    from bdh.params import corpus_of, load

    column = corpus_of(load(), corpus).text.columns.text
    texts = pq.read_table(raw / Provenance.read(raw).text, columns=[column])[column].to_pylist()
    inner = BytePairs.gpt2(raw / "vocab.json", raw / "merges.txt")._inner
    tokens = 0
    start, cpu = time.perf_counter(), time.process_time()
    for place in range(0, len(texts), BARE_BATCH):
        tokens += sum(len(encoding.ids) for encoding in inner.encode_batch(texts[place : place + BARE_BATCH]))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"s": seconds, "cpu_s": cpu, "tokens": tokens, "bytes": sum(len(text.encode()) for text in texts)}


def measured(function: Callable[[str, Path], dict[str, Any]], corpus: str, raw: Path) -> dict[str, Any]:
    """Run `function` in a fresh process and add its peak memory in MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (function, corpus, raw))


def _with_peak(function: Callable[[str, Path], dict[str, Any]], corpus: str, raw: Path) -> dict[str, Any]:
    result = function(corpus, raw)
    return result | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over runs of one kind; tokens and bytes are the same in all."""
    keys = ("s", "cpu_s", "peak_mib")
    medians = {key: round(statistics.median(run[key] for run in runs), 2) for key in keys}
    speed = statistics.median(run["bytes"] / run["s"] for run in runs) / 1e6
    return medians | {
        "mb_per_s": round(speed, 2),
        "tokens": runs[0]["tokens"],
        "bytes": runs[0]["bytes"],
        "all_s": [round(run["s"], 2) for run in runs],
    }


def main(
    raw: Annotated[Path, typer.Argument(help="folder of the fetched corpus, GPT-2 files included")],
    corpus: Annotated[str, typer.Option(help="its section of params.yaml, parquet with the gpt2 tokenizer")],
    repeats: Annotated[int, typer.Option(help="runs of each kind")] = 3,
) -> None:
    """Measure both in turns and write benchmarks/results/tokenize.json."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "bare": []}
    for _ in range(repeats):
        for name, function in (("bare", bare), ("ours", ours)):
            runs[name].append(measured(function, corpus, raw))
            print(f"{name}: {runs[name][-1]}")
    if runs["ours"][0]["tokens"] != runs["bare"][0]["tokens"]:
        raise SystemExit("the two did not give the same number of tokens (documents removed by our stage?)")
    ratios = [other["s"] / mine["s"] for mine, other in zip(runs["ours"], runs["bare"], strict=True)]
    result = {
        "command": f"python -m benchmarks.tokenize {raw} --corpus {corpus} --repeats {repeats}",
        "corpus": corpus,
        "n": repeats,
        "speed_of_bare": round(statistics.median(ratios), 3),
        "ours": summary(runs["ours"]),
        "bare": summary(runs["bare"]),
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "platform": platform.platform(),
            "python": platform.python_version(),
            "tokenizers": __import__("tokenizers").__version__,
        },
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
