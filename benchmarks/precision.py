"""Training steps of small models in float32 and under bfloat16 autocast on this machine's CPU.

Run: python benchmarks/precision.py [--steps 12]. It is what `precision: auto` (bdh/project/device.py) rests on.
"""

from __future__ import annotations

import argparse
import time

import torch

from bdh.models.base import build
from bdh.project.device import autocast, choose_precision

CPU = torch.device("cpu")
PRECISIONS = (torch.float32, torch.bfloat16)
SHAPES = (
    ("laptop scale", {"n_layer": 3, "n_embd": 64, "n_head": 4, "mlp_internal_dim_multiplier": 16}, 16, 128),
    ("wider", {"n_layer": 4, "n_embd": 128, "n_head": 4, "mlp_internal_dim_multiplier": 32}, 8, 128),
)


def step_ms(shape: dict[str, int], batch_size: int, window: int, steps: int) -> dict[torch.dtype, float]:
    """Fastest of `steps` AdamW steps of `bdh` on random bytes, in milliseconds.

    The precisions take turns, so that other work on the machine weighs on both.
    """
    models = {precision: build("bdh", vocab_size=256, seed=0, dropout=0.1, **shape) for precision in PRECISIONS}
    optimizers = {precision: torch.optim.AdamW(model.parameters(), 1e-3) for precision, model in models.items()}
    generator, best = torch.Generator().manual_seed(0), dict.fromkeys(PRECISIONS, float("inf"))
    for _ in range(steps):
        text = torch.randint(0, 256, (batch_size, window + 1), generator=generator)
        for precision, model in models.items():
            started = time.perf_counter()
            with autocast(CPU, precision):
                loss = model.training_pass(text[:, :-1], text[:, 1:]).loss
            loss.backward()
            optimizers[precision].step()
            optimizers[precision].zero_grad()
            best[precision] = min(best[precision], 1e3 * (time.perf_counter() - started))
    return best


def main() -> None:
    """Print one line per shape and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    steps = parser.parse_args().steps
    amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    print(f"torch {torch.__version__}, AMX {amx}, AVX512 bfloat16 {avx512}, auto: {choose_precision('auto', CPU)}")
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for name, shape, batch_size, window in SHAPES:
            plain, mixed = step_ms(shape, batch_size, window, steps).values()
            print(
                f"{name}, {batch_size} x {window} tokens, {threads} threads: float32 {plain:.0f} ms, "
                f"bfloat16 {mixed:.0f} ms, speed {plain / mixed:.2f}"
            )


if __name__ == "__main__":
    main()
