"""Every kernel of one fused layer: first against its plain-torch form, then timed by itself, tiles as given.

    python -m benchmarks.kernels                                     # official shape, 16 streams of 512 tokens
    python -m benchmarks.kernels --streams 4 --tokens 4096 --segment 256
    python -m benchmarks.kernels --only gate,encode --sweep '{"gate": [{"N": 64}, {"N": 64, "warps": 4}]}'
    TRITON_INTERPRET=1 python -m benchmarks.kernels --device cpu --streams 2 --tokens 32 --width 16 --neurons 64 --quick

--blocks takes {kernel: {name: number}} that replaces tiles of `bdh.kernels.training.shape.BLOCKS` everywhere; --sweep
takes {kernel: [{...}, ...]}, or `default` for those of `benchmarks/kernel_sweep.py`, and times each; "registers" limits
the registers of a thread. Columns: median of 20 in milliseconds, TFLOP/s, TB/s, maximal error over the largest value.
Rows named `product ...` are plain matrix products. Compiling takes seconds per tile: run the kernels side by side with
`--only KERNEL --streams 1 --quick --no-check` first, which fills Triton's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from bdh.kernels.training import reference
from bdh.kernels.training.reference import Mask, product
from bdh.kernels.training.shape import PassShape, Tuning, turns
from benchmarks.kernel_sweep import STREAM_SWEEP, SWEEP

Run = Callable[[ModuleType, Tuning], dict[str, Tensor]]


@dataclass
class Case:
    """One kernel on fixed inputs: `run(forms, tuning)` gives its outputs; operations and bytes it cannot avoid."""

    run: Run
    operations: float
    bytes: float
    kernel: bool = True


def inputs(shape: PassShape, dtype: torch.dtype, device: str, share: float) -> dict[str, Tensor]:
    """Random rows, weights and gradients of realistic size, and all that the plain-torch forms make of them."""
    generator = torch.Generator(device=device).manual_seed(0)

    def random(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=generator, device=device) * scale).to(dtype)

    R, D, H, HN = shape.R, shape.D, shape.H, shape.HN
    t = {"v": random(R, D), "a": random(H, R, D), "dy": random(R, D, scale=1e-2), "da": random(H, R, D, scale=1e-2)}
    t |= {"E": random(D, HN, scale=0.02), "V": random(D, HN, scale=0.02), "W": random(HN, D, scale=0.02)}
    t |= {"before": random(R, HN), "carry": random(R, HN, scale=1e-2), "x": random(R, HN).relu_()}
    t |= {"q": random(R, HN), "dx": random(R, HN, scale=1e-2), "g": torch.empty(R, HN, dtype=dtype, device=device)}
    t["p"] = random(shape.segments, H, shape.C, shape.C, scale=1e-2)
    t["rho"], t["drho"] = (random(shape.segments, HN, D, scale=s) for s in (1.0, 1e-2))
    t["l1"] = torch.full((1,), 1e-3, device=device)
    t["draw"] = torch.tensor([7, 3], dtype=torch.int32, device=device)
    reference.gate(t["x"], t["a"], t["V"], Mask(share, 0), t["draw"], t["g"], shape, Tuning())
    return t


def cases(shape: PassShape, dtype: torch.dtype, device: str, share: float = 0.1) -> dict[str, Case]:
    """All kernels, and the plain products between them."""
    t = inputs(shape, dtype, device, share)
    angles, mask = turns(shape.T, shape.N, torch.device(device), dtype), Mask(share, 0)
    full, half = float(shape.R * shape.HN), 2.0 * shape.D * shape.R * shape.HN
    item = torch.finfo(dtype).bits // 8
    pairs = shape.R * (shape.C - 1) / 2 * shape.H

    def new() -> Tensor:
        return torch.empty(shape.R, shape.HN, dtype=dtype, device=device)

    def encode(forms: ModuleType, tuning: Tuning, before: str | None, sums: bool) -> dict[str, Tensor]:
        x, q = new(), new()
        earlier = t[before] if before else None
        total = forms.encode(t["v"], t["E"], angles, earlier, bool(before), x, q, sums, shape, tuning)
        return {"x": x, "q": q} | ({} if total is None else {"sum": total})

    def gate(forms: ModuleType, tuning: Tuning) -> dict[str, Tensor]:
        g = new()
        forms.gate(t["x"], t["a"], t["V"], mask, t["draw"], g, shape, tuning)
        return {"g": g}

    def gradient(forms: ModuleType, tuning: Tuning, mark: bool) -> dict[str, Tensor]:
        dys, dx = new(), new()
        forms.gradient(t["x"], t["g"], t["dy"], t["W"], mask.scale, dys, dx, mark, shape, tuning)
        return {"dys": dys, "dx": dx}

    def activity(forms: ModuleType, tuning: Tuning, kind: str) -> dict[str, Tensor]:
        # the kernel works in place, on the GPU without a copy that would be timed: take the plain form first
        dx, carry = t["dx"].clone() if forms is reference or kind != "plain" else t["dx"], t["carry"].clone()
        states = (t["da"], t["v"], t["rho"], t["drho"]) if kind == "states" else None
        carried = (t["before"], carry, False) if kind == "carried" else None
        l1 = t["l1"] if kind == "carried" else None
        forms.activity(t["p"], t["q"], dx, angles, l1, states, carried, shape, tuning)
        return {"dx": dx} | ({"carry": carry} if carried else {})

    g_HRN = t["q"].view(shape.R, shape.H, shape.N).transpose(0, 1)
    V_HND = t["V"].view(shape.D, shape.H, shape.N).permute(1, 2, 0)
    square = shape.segments * shape.H * shape.C * shape.C
    found = {
        "encode": Case(lambda f, u: encode(f, u, None, False), half, 2 * full * item),
        "encode carried": Case(lambda f, u: encode(f, u, "before", True), half, 3 * full * item),
        "scores": Case(lambda f, u: {"s": f.scores(t["q"], shape, u)}, 2 * pairs * shape.N, full * item),
        "gate": Case(gate, half, 2 * full * item),
        "gradient": Case(lambda f, u: gradient(f, u, True), half, 4 * full * item),
        "gradient carried": Case(lambda f, u: gradient(f, u, False), half, 4 * full * item),
        "pairs": Case(lambda f, u: {"p": f.pairs(t["da"], t["v"], shape, u)}, 4.0 * square * shape.D, square * item),
        "activity": Case(lambda f, u: activity(f, u, "plain"), 2.0 * square * shape.N, 3 * full * item),
        "activity carried": Case(lambda f, u: activity(f, u, "carried"), 2.0 * square * shape.N, 6 * full * item),
        "product g W": Case(lambda f, u: {"y": product(t["q"], t["W"])}, half, full * item, False),
        "product g^T dY": Case(lambda f, u: {"dW": product(t["q"].mT, t["dy"])}, half, full * item, False),
        "product a^T dys": Case(lambda f, u: {"dV": product(t["a"].mT, g_HRN)}, half, full * item, False),
        "product dys V^T": Case(lambda f, u: {"da": torch.bmm(g_HRN, V_HND)}, half, full * item, False),
        "product v^T dxs": Case(lambda f, u: {"dE": product(t["v"].mT, t["q"])}, half, full * item, False),
        "product dxs E^T": Case(lambda f, u: {"dv": product(t["q"], t["E"].mT)}, half, full * item, False),
    }
    found |= row_cases(t, shape)
    if shape.long:
        size = (full + shape.segments * shape.HN * shape.D) * item
        found |= {
            "states": Case(lambda f, u: {"rho": f.states(t["q"], t["v"], False, shape, u)}, half, size),
            "states backward": Case(lambda f, u: {"drho": f.states(t["q"], t["da"], True, shape, u)}, half, size),
            "activity states": Case(
                lambda f, u: activity(f, u, "states"), 2.0 * square * shape.N + 2 * half, 3 * full * item
            ),
        }
    return found


def row_cases(t: dict[str, Tensor], shape: PassShape) -> dict[str, Case]:
    """The steps on rows; sums of two parts."""
    R, H, D = shape.R, shape.H, shape.D
    generator = torch.Generator(device=t["v"].device).manual_seed(1)
    parts, u = (torch.randn(*size, R, D, generator=generator, device=t["v"].device) for size in ((2,), ()))
    reads = parts.new_empty(shape.segments, H * shape.C, D).normal_(generator=generator)

    def settle(forms: ModuleType) -> dict[str, Tensor]:
        a = t["a"].new_empty(H, 2 * R, D)[:, R:]
        scale = forms.settle(reads, a, shape)
        da = forms.settle_backward(t["da"], a, scale, shape)
        return {"a": a, "scale": scale, "da": da}

    def answer(forms: ModuleType, residual: bool) -> dict[str, Tensor]:
        v, dy, rows = torch.empty_like(t["v"]), torch.empty_like(t["v"]), forms
        after, y, y_scale, scale = rows.answer(parts, u if residual else None, v)
        dv = rows.answer_backward(u, parts, parts[0], y, after, y_scale, scale, residual, dy)
        first = rows.answer_backward(u, None, None, y, after, y_scale, scale, residual, torch.empty_like(dy))
        return {"after": after, "y": y, "y_scale": y_scale, "v": v, "dv": dv, "dy": dy, "first": first}

    size = 4.0 * R * D
    return {
        "settle": Case(lambda f, u: settle(f), 0.0, 4 * H * size),
        "answer": Case(lambda f, u: answer(f, True), 0.0, 12 * size),
        "answer carried": Case(lambda f, u: answer(f, False), 0.0, 10 * size),
    }


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value; infinite if NaNs stand in different places."""
    found, expected = found.float(), expected.float()
    if not torch.equal(found.isnan(), expected.isnan()):
        return float("inf")
    return float((found - expected).nan_to_num_().abs().max() / expected.nan_to_num().abs().max().clamp_min(1e-30))


def milliseconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of a call; on a GPU by events, after a warm-up."""
    for _ in range(3 if device == "cuda" else 1):
        work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begun = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def measure(name: str, case: Case, launch: ModuleType, tuning: Tuning, options: argparse.Namespace, note: str) -> None:
    """Check and time one case, and print its line; a tile that the GPU cannot run is a line too."""
    try:
        worst = "      -"
        if case.kernel and not options.no_check:
            expected, found = case.run(reference, tuning), case.run(launch, tuning)
            worst = " ".join(f"{key} {error(found[key], expected[key]):.1e}" for key in found)
            del found, expected
        taken = milliseconds(lambda: case.run(launch, tuning), 1 if options.quick else 20, options.device)
        rates = f"{case.operations / taken / 1e9:7.1f} TFLOP/s {case.bytes / taken / 1e9:6.2f} TB/s"
        print(f"{name:20} {taken:9.3f} ms {rates}  {worst}  {note}", flush=True)
    except Exception as problem:  # a tile too large for the chip is an answer, not an accident
        print(
            f"{name:20} failed: {str(problem).splitlines()[0][:160] if str(problem) else problem!r}  {note}", flush=True
        )


def main() -> None:
    """Check and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    for name, value in {"streams": 16, "tokens": 512, "segment": 0, "width": 256, "heads": 4, "neurons": 8192}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", default="", help="cases, comma-separated")
    parser.add_argument("--blocks", type=json.loads, default={})
    parser.add_argument("--sweep", type=lambda text: SWEEP if text == "default" else json.loads(text), default={})
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-hopper", action="store_true", help="the programs for any GPU alone")
    parser.add_argument("--quick", action="store_true", help="one repeat")
    options = parser.parse_args()
    from bdh.kernels.training import launch

    segment = options.segment or options.tokens
    shape = PassShape(options.streams, options.tokens, segment, options.width, options.heads, options.neurons)
    dtype = torch.bfloat16
    tuning = Tuning(blocks=options.blocks, hopper=not options.no_hopper)
    wanted = [name for name in options.only.split(",") if name]
    for name, case in cases(shape, dtype, options.device, options.share).items():
        kernel = name.split()[0]
        if wanted and name not in wanted and kernel not in wanted:
            continue
        measure(name, case, launch, tuning, options, "")
        for blocks in options.sweep.get(kernel, []) if case.kernel else []:
            own = options.blocks | {kernel: options.blocks.get(kernel, {}) | blocks}
            measure(name, case, launch, replace(tuning, blocks=own, hopper=False), options, json.dumps(blocks))
        for stream in STREAM_SWEEP.get(kernel, []) if case.kernel and options.sweep is SWEEP else []:
            own = replace(tuning, streams={kernel: stream})
            measure(name, case, launch, own, options, f"Hopper {json.dumps(stream)}")


if __name__ == "__main__":
    main()
