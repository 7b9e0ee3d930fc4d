"""Training step of our variants beside the official model file, on the same batch in one run.

python -m benchmarks.train_step --variants bdh,transformer --out benchmarks/results/train_step.json
python -m benchmarks.train_step --device cuda --batch 32 --window 512 --reference path/to/official/bdh.py ...
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import torch

from bdh.models.base import LanguageModel, build
from bdh.params import load
from bdh.training.update import TrainingPass
from benchmarks.machine import describe, recorded, seconds_each, summary

LAPTOP = '{"n_layer": 3, "n_embd": 64, "n_head": 4, "mlp_internal_dim_multiplier": 16}'


def official(path: str, settings: dict, vocab_size: int):
    spec = importlib.util.spec_from_file_location("official_bdh", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BDH(module.BDHConfig(vocab_size=vocab_size, **settings))


def variant_of(variant: str, settings: dict, vocab_size: int):
    """A variant of params.yaml with `settings` in the place of its scale's."""
    params = load()
    own = settings | params.preset_of(variant)
    return build(params.architecture_of(variant), vocab_size=vocab_size, seed=0, **own)


def loss_of(output):
    return output[1] if isinstance(output, tuple) else output.loss


def step_of(model, run, tokens, targets, device, bf16):
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=device.startswith("cuda")
    )

    def step():
        with torch.autocast(device_type=device.split(":")[0], dtype=torch.bfloat16, enabled=bf16):
            loss = loss_of(run(tokens, targets))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", default="bdh,transformer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument(
        "--model", default='{"n_layer": 3, "n_embd": 64, "n_head": 4, "mlp_internal_dim_multiplier": 16}'
    )
    parser.add_argument("--reference", default=None)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    shape = json.loads(options.model)
    torch.manual_seed(0)
    tokens = torch.randint(options.vocab, (options.batch, options.window), device=options.device)
    targets = torch.randint(options.vocab, (options.batch, options.window), device=options.device)
    models = {}
    if options.reference:
        models["official"] = lambda: official(options.reference, shape, options.vocab)
    for variant in options.variants.split(","):
        models[variant] = lambda variant=variant: variant_of(variant, shape, options.vocab)
    rows = {}
    for name, make in models.items():
        model = make().to(options.device).train()
        run = TrainingPass(model) if isinstance(model, LanguageModel) else model
        run = torch.compile(run) if options.compile else run
        if options.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        step = step_of(model, run, tokens, targets, options.device, not options.float32)
        rows[name] = summary(seconds_each(step, repeats=options.repeats, warmup=4, device=options.device))
        rows[name]["tokens_per_s"] = tokens.numel() / rows[name]["median_s"]
        rows[name]["parameters"] = sum(p.numel() for p in model.parameters())
        if options.device.startswith("cuda"):
            rows[name]["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        print(name, {k: round(v, 5) for k, v in rows[name].items()}, flush=True)
        del model, run, step
        torch._dynamo.reset()
    result = {"machine": describe(options.device), "settings": recorded(options), "rows": rows}
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
