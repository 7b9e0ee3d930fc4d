"""Time and memory of the frontier stage at the references' size, beside an earlier version of this project.

python -m benchmarks.frontier --baseline FOLDER      FOLDER: `git worktree add FOLDER 1303be0`

Writes benchmarks/results/frontier.json. A bdh with random weights (6 layers, width 256, 4 heads of 4,096 and of 8,192
neurons) and its graph metrics (TMI, degrees, state graph); `stage`, with --stage: the whole of stage frontier, 262,144
bytes read; `twins`, with --twins: stage twins, which is computed once per shape. Rows: seconds, CPU seconds of all
processes (loading included) and peak memory in MiB (proportional set sizes of the process and all its children).
`peer` is the earlier version with three twins of its own in every run, null where it did not finish within --cap
seconds. Rows of a machine replace those of the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "frontier.json"
GRAPH = ("tmi", "degrees", "state_graph")
TOKENS, WINDOW, WIDTH = 262_144, 512, 256
SETTINGS = {
    "top_share": 0.023, "communities": "louvain", "restarts": 2, "graph_nulls": 5, "null_draws": 200, "bootstrap": 500,
    "laptop": {"max_tokens": TOKENS}, "gpu": {"max_tokens": TOKENS},
}  # fmt: skip


def work(part: str, neurons: int, tokens: int, earlier: bool) -> None:
    """Compute one part in this process, which sees one version of the project."""
    import torch

    from bdh.models.base import build
    from bdh.params import Frontier

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = {"n_layer": 6, "n_embd": WIDTH, "n_head": 4, "mlp_internal_dim_multiplier": 4 * neurons // WIDTH}
    models = [build("bdh", vocab_size=256, seed=seed, **shape).eval() for seed in range(4 if earlier else 1)]
    settings = Frontier(**SETTINGS, twins=3 if earlier else 20)
    graphs, text = [model.graph_factors() for model in models], held_out(tokens if part in ("stage", "twins") else 4096)
    started = time.perf_counter()
    if part in ("stage", "twins"):
        whole(part, models[0].to(device), text, settings, device)
    elif part == "tmi":
        from bdh.frontier import tmi

        tmi.measure(graphs[0], graphs[1:], settings)
    elif part == "degrees":
        from bdh.frontier import degrees, tmi

        found = [degrees.degrees_of(tmi.excitatory_edges(graph, settings.top_share)) for graph in graphs]
        for side in ("in", "out"):
            degrees.row(found[0][side], [other[side] for other in found[1:]])
    else:
        from bdh.frontier import state_graph

        models = [model.to(device) for model in models]
        state_graph.measure(models[0], models[1:], text, device, settings)
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"seconds": seconds, "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in used)}))


def held_out(tokens: int, documents: int = 8) -> Any:
    """Documents of random bytes."""
    try:
        from benchmarks.control_text import text
    except ModuleNotFoundError:  # where the earlier version keeps it
        from benchmarks.controls import text  # type: ignore[attr-defined]

    return text(lengths=(tokens // documents,) * documents, window=WINDOW, vocab=256)


def whole(part: str, model: Any, text: Any, settings: Any, device: str) -> None:
    """Every metric of the registry on one model, beside nulls and twins (`stage`) or as one of 20 twins (`twins`)."""
    import importlib

    import numpy as np

    from bdh.frontier import registry
    from bdh.frontier.concepts import Passages
    from bdh.frontier.survey import Context, Subject, Texts, survey
    from benchmarks.control_concepts import Design, labels

    passages = held_out(6144, documents=12)
    texts = Texts(
        text,
        Passages(passages, np.arange(passages.scored), passages.token_document),
        labels(0, Design(sets=False, concepts=2, documents=16, windows=8, window=48)),
    )
    fast = device == "cuda"
    for number in range(settings.twins if part == "twins" else 1):
        started = time.perf_counter()
        subject = Subject(model, survey(model, text, device, fast), texts, settings, device, fast, number)
        note("reading", started)
        for metric in registry.METRICS:
            started, module = time.perf_counter(), importlib.import_module(metric.module)
            if part == "twins":
                module.alone(subject)
            else:
                none = {one.name: [] for one in registry.METRICS}
                module.compute(Context(**vars(subject), damping=0.99, twins=none))
            note(metric.name, started)


def note(name: str, started: float) -> None:
    """A line on standard error: where the time goes."""
    sys.stderr.write(f"{name}: {time.perf_counter() - started:.1f} s\n")
    sys.stderr.flush()


def apart(part: str, neurons: int, root: Path, cores: int, cap: float, *, earlier: bool) -> dict[str, float | None]:
    """One part in a process of its own on some cores: its seconds (None past `cap`) and its peak memory in MiB."""
    import psutil

    here = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-P",
        str(Path(__file__)),
        "--only",
        part,
        "--neurons",
        str(neurons),
        "--cores",
        str(cores),
    ]
    paths = [str(root), str(here), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command += ["--earlier"] if earlier else []
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=root) as process:
        while process.poll() is None and time.monotonic() - started < cap:
            peak = max(peak, memory(psutil.Process(process.pid)))
            time.sleep(0.5)
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            return {"seconds": None, "cpu_seconds": None, "peak_mib": peak}
        told = process.stdout.read() if process.stdout else b""
    if process.returncode:
        raise SystemExit(f"{part} ended with {process.returncode}")
    return json.loads(told) | {"peak_mib": peak}


def memory(process: Any) -> float:
    """Proportional set size of a process and everything that it started, MiB."""
    import psutil

    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.Error:
        return 0.0
    return total / 2**20


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every part at every size, here and in the earlier version."""
    import torch

    from benchmarks.machine import describe

    here = Path(__file__).parents[1]
    device = describe("cuda" if torch.cuda.is_available() else "cpu")
    name = f"{device['processor']}, {options.cores} cores" + (f", {device['gpu']}" if "gpu" in device else "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    found = []
    for neurons in options.sizes:
        for part in [*options.parts, *(["stage"] if options.stage else []), *(["twins"] if options.twins else [])]:
            ours = apart(part, neurons, here, options.cores, options.cap, earlier=False)
            theirs = None
            if options.baseline and part in GRAPH:
                theirs = apart(part, neurons, options.baseline.absolute(), options.cores, options.cap, earlier=True)
            for metric, value in ours.items():
                other = theirs[metric] if theirs else None
                row = {
                    "work": f"{part}, 4 heads of {neurons} neurons", "metric": metric, "ours": value, "peer": other,
                    "ratio": other / value if other and value and metric != "peak_mib" else None, "n": 1,
                    "device": name, "commit": commit,
                }  # fmt: skip
                if theirs and theirs["seconds"] is None:
                    row["note"] = f"peer not finished after {options.cap:g} s"
                if ours["seconds"] is None:
                    row["note"] = f"not finished after {options.cap:g} s"
                found.append(row)
                print(row, flush=True)
    return found


def main() -> None:
    """Measure and write, or with --only compute one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, default=None, help="a worktree of the earlier version")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192], help="neurons per head")
    parser.add_argument("--parts", nargs="*", choices=GRAPH, default=list(GRAPH))
    parser.add_argument("--stage", action="store_true", help="also the whole stage (on a GPU)")
    parser.add_argument("--twins", action="store_true", help="also the untrained twins of a shape (on a GPU)")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cap", type=float, default=900.0, help="seconds after which a measurement is given up")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--neurons", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help=argparse.SUPPRESS)
    parser.add_argument("--earlier", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.only:
        work(options.only, options.neurons, options.tokens, options.earlier)
        return
    measured = rows(options)
    kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    new = {(row["work"], row["device"]) for row in measured}
    kept = [row for row in kept if (row["work"], row["device"]) not in new]
    options.out.write_text(json.dumps({"peer": "commit 1303be0", "rows": kept + measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
