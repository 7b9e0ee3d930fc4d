"""Tokens per second of decoding: ours from the state, the official file re-reading its prefix, one stream and many.

    python -m benchmarks.decode --reference PATH/bdh.py --out FILE --text BYTES --train-steps 300   # on a GPU
    python -m benchmarks.decode --reference PATH/bdh.py --checkpoint data/runs/KEY --text BYTES --out FILE
    python -m benchmarks.decode --text BYTES --drift 100000                                         # the state's error
    python -m benchmarks.decode --tiny --reference PATH/bdh.py                                      # on a CPU, seconds

Before any time is taken the logits are compared with the parallel form in float64, across a fold of the window, beside
the error that the peer's own precision makes. Works that are compared take turns; a number is the median over rounds.
`--fast` takes fewer rounds and trains less. Densities decide the speed: random weights have twice those of a trained
model, so give a run or let the model train first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
from torch import Tensor

from bdh.kernels.decoding.decoder import WINDOW, Decoder
from bdh.models.base import LanguageModel, build
from bdh.project.device import autocast, choose_device, choose_precision
from bdh.project.files import write_json
from bdh.training.checkpoints import load_run
from benchmarks.decode_components import components, density, roofline
from benchmarks.decode_drift import drift
from benchmarks.machine import describe, recorded, seconds_each

OFFICIAL = {"n_layer": 6, "n_embd": 256, "n_head": 4, "mlp_internal_dim_multiplier": 128, "dropout": 0.1}
TINY = {"n_layer": 2, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 8, "dropout": 0.1}
V = 256
DENSITY_EVERY = 500
"""Training steps between two looks at the densities."""


def text_of(path: str | None) -> Tensor:
    """The bytes of a file as tokens; without one a text of pseudo-random words."""
    if path:
        return torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(0)
    words = [torch.randint(97, 123, (int(n),), generator=generator) for n in torch.randint(2, 8, (200,))]
    picked = torch.randint(len(words), (40000,), generator=generator).tolist()
    return torch.cat([torch.cat((words[index], torch.tensor([32]))) for index in picked])


def train(
    model: LanguageModel, text: Tensor, steps: int, device: torch.device, l1: float = 0.0, batch: int = 32,
    window: int = 512,
):  # fmt: skip
    """`steps` AdamW steps (1e-3, decay .1) on random windows, so that activations are as dense as trained ones.

    l1: weight of the mean activity of x, which makes them sparser.
    """
    model.begin_training(l1_weight=l1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1, fused=device.type == "cuda")
    generator, text, model = torch.Generator().manual_seed(0), text.to(device), model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 50)
        starts = torch.randint(len(text) - window - 1, (batch, 1), generator=generator).to(device)
        piece = text[starts + torch.arange(window + 1, device=device)]
        with autocast(device, choose_precision("auto", device)):
            output = model.training_pass(piece[:, :-1], piece[:, 1:])
            total = model.objective(output)
        loss = output.loss
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % DENSITY_EVERY == 0:
            shares = density(model.eval(), text[None, :window])
            print(f"step {step + 1}: loss {loss.item():.3f}, density", _rounded(shares), flush=True)
            model.train()
    if steps:
        print(f"trained {steps} steps, last loss {loss.item():.3f} nats per byte", flush=True)
    return model.eval()


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, 4) for name, share in shares.items()}


def official(path: str, model: LanguageModel, settings: dict, device: torch.device):
    """The peer's model with the same weights."""
    spec = importlib.util.spec_from_file_location("official_bdh", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = module.BDH(module.BDHConfig(vocab_size=model.vocab_size, **settings)).to(device).eval()
    missing, unexpected = peer.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"attn.freqs"}, missing
    return peer


class Rereader:
    """The official generation loop: read the whole prefix, draw, append. Here the prefix is `context` tokens each time,
    so that a compiled forward is compiled once."""

    def __init__(self, peer, prompt: Tensor, device: torch.device, compiled: bool) -> None:
        self.forward = torch.compile(peer) if compiled else peer
        self.prefix, self.device = prompt[None].to(device), device

    @torch.no_grad()
    def __call__(self) -> None:
        with autocast(self.device, choose_precision("auto", self.device)):
            logits = self.forward(self.prefix)[0][:, -1]
        drawn = torch.multinomial(torch.softmax(logits.float(), dim=-1), num_samples=1)
        self.prefix = torch.cat((self.prefix[:, 1:], drawn), dim=1)


@torch.no_grad()
def correctness(model: LanguageModel, peer, text: Tensor, context: int, device: torch.device) -> dict[str, float]:
    """Relative error of logits, ours and the peer's, against float64 after `context` tokens and across a fold."""
    steps = WINDOW + 16
    tokens = text[: context + steps].to(device)
    decoder = Decoder(model)
    decoder.start([tokens[: context + 1].tolist()])
    ours = torch.cat([decoder.feed(token[None]) for token in tokens[context:]])
    narrow = autocast(device, choose_precision("auto", device))
    with narrow:
        theirs = (peer(tokens[None])[0] if peer is not None else model(tokens[None]).logits)[0, context:]
    truth = model.double()(tokens[None]).logits[0, context:]
    model.float()
    relative = lambda found: float((found.double() - truth).norm() / truth.norm())  # noqa: E731
    same = lambda found: float((found.argmax(1) == truth.argmax(1)).double().mean())  # noqa: E731
    return {
        "tokens": steps,
        "relative_error_ours": relative(ours),
        "relative_error_parallel": relative(theirs),
        "same_best_token_ours": same(ours),
        "same_best_token_parallel": same(theirs),
    }


def row(work: str, ours: float, peer: float, n: int, machine: dict) -> dict:
    """A row of the results: tokens per second, more is better."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    device = machine.get("gpu", machine["processor"])
    found = {"work": work, "metric": "tokens_per_s", "ours": ours, "peer": peer, "ratio": ours / peer, "n": n}
    print(f"{work}: ours {ours:,.0f} tok/s, peer {peer:,.0f} tok/s, ratio {ours / peer:.1f} (n {n})", flush=True)
    return found | {"device": device, "commit": commit}


def alternating(works: dict, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call of every work, one call each per round, after one untimed call."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            times[name] += seconds_each(work, repeats=1, warmup=0, device=device)
    return times


def decoder_of(
    model: LanguageModel, text: Tensor, streams: int, context: int, early: bool | None, tiles=None
) -> Decoder:
    """Streams that have read `context` tokens of different places of the text; `tiles` as in --tiles."""
    starts = torch.linspace(0, len(text) - context - 1, streams).long().tolist()
    kind = None
    if tiles:
        from bdh.kernels.decoding import few, many

        kind = few.FewTiles(**tiles.get("few", {})) if streams <= few.MOST else many.ManyTiles(**tiles.get("many", {}))
    decoder, began = Decoder(model, streams, early=early, tiles=kind), time.perf_counter()
    decoder.start([text[start : start + context].tolist() for start in starts])
    decoder.run(1)
    seconds = time.perf_counter() - began
    print(f"prefill of {streams} x {context} tokens: {streams * context / seconds:,.0f} tok/s", flush=True)
    return decoder


def one_stream(model, options, text, settings, device, machine, details) -> list[dict]:
    """`decode_b1_ctx2048`: the faster of the peer's eager and compiled loops against our single stream."""
    peer = official(options.reference, model, settings, device) if options.reference else None
    details["correctness"] = correctness(model, peer, text, options.context, device)
    print("correctness:", json.dumps(details["correctness"]), flush=True)
    decoder = decoder_of(model, text, 1, options.context, options.early, options.tiles)
    details["one_stream"] = {"bytes": decoder.memory.bytes_per_stream()}
    if peer is None:
        return []
    works = {"ours": lambda: decoder.run(WINDOW), "eager": Rereader(peer, text[: options.context], device, False)}
    if device.type == "cuda" and not options.no_compile:
        works["compiled"] = Rereader(peer, text[: options.context], device, True)
    medians = {k: statistics.median(v) for k, v in alternating(works, options.rounds, device.type).items()}
    details["one_stream"] |= {f"{name}_s": seconds for name, seconds in medians.items()}
    best = min(seconds for name, seconds in medians.items() if name != "ours")
    name = f"decode_b1_ctx{options.context}{options.suffix}"
    return [row(name, WINDOW / medians["ours"], 1 / best, options.rounds, machine)]


def many_streams(model, options, text, device, machine, details) -> list[dict]:
    """`decode_b64`: all streams together against our own single stream, both at the same context."""
    single = decoder_of(model, text, 1, options.context, options.early, options.tiles)
    found = components(single)
    many = decoder_of(model, text, options.streams, options.context, options.early, options.tiles)
    works = {"many": lambda: many.run(WINDOW), "single": lambda: single.run(WINDOW)}
    medians = {k: statistics.median(v) for k, v in alternating(works, options.rounds, device.type).items()}
    details["density"] = density(model, text[None, : min(512, options.context)].to(device))
    print("density:", _rounded(details["density"]), flush=True)
    for decoder, seconds, parts in ((single, medians["single"], found), (many, medians["many"], components(many))):
        streams = len(decoder.memory.tokens)
        details[f"b{streams}"] = roofline(decoder, details["density"], seconds / WINDOW) | {"components_us": parts}
        print(f"b{streams}:", json.dumps(details[f"b{streams}"]), flush=True)
    name, speed = f"decode_b{options.streams}{options.suffix}", WINDOW * options.streams / medians["many"]
    return [row(name, speed, WINDOW / medians["single"], options.rounds, machine)]


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", help="official bdh.py; without it decode_b1 has no peer and no row")
    parser.add_argument("--out", help="JSON to write")
    parser.add_argument("--text", help="file of bytes to train on and to read")
    parser.add_argument("--checkpoint", help="folder of a trained run with 256 tokens")
    parser.add_argument("--train-steps", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--l1", type=float, default=0.0, help="weight of the L1 term while the model trains")
    parser.add_argument("--suffix", default="", help="of the names of the rows")
    parser.add_argument(
        "--tiles", type=json.loads, default={}, help='{"few": {...}, "many": {...}} for the two step kinds'
    )
    parser.add_argument("--drift", type=int, default=0, metavar="TOKENS", help="measure the state's error instead")
    parser.add_argument("--model", type=json.loads, default=None, help="settings of the model as JSON")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters")
    parser.add_argument("--fast", action="store_true", help="7 rounds, 150 training steps")
    parser.add_argument("--no-early", dest="early", action="store_false", default=None, help="programs do not overlap")
    parser.add_argument("--no-compile", action="store_true", help="take the peer's eager loop alone")
    options = parser.parse_args()
    options.rounds = options.rounds or (7 if options.fast or options.tiny else 21)
    if options.train_steps is None:
        options.train_steps = 0 if options.checkpoint or options.tiny else (150 if options.fast else 300)
    options.context = min(options.context, 96) if options.tiny else options.context
    options.streams = min(options.streams, 4) if options.tiny else options.streams
    return options


def main() -> None:
    """Compare, time, print and write."""
    options = options_of()
    device = choose_device(options.device, torch.get_num_threads())
    machine, text = describe(device.type), text_of(options.text)
    settings = options.model or (TINY if options.tiny else OFFICIAL)
    if options.checkpoint:
        model, config = load_run(Path(options.checkpoint), device)
        settings = config["model"]
    else:
        model = build("bdh", vocab_size=V, seed=0, **settings).to(device)
        model = train(model, text, options.train_steps, device, options.l1)
    details: dict = {}
    rows: list[dict] = []
    if options.drift:
        details["drift"] = drift(model, text, options.drift)
    else:
        rows += one_stream(model, options, text, settings, device, machine, details)
        rows += many_streams(model, options, text, device, machine, details)
    if options.out:
        write_json(
            Path(options.out), {"machine": machine, "settings": recorded(options), "rows": rows, "details": details}
        )


if __name__ == "__main__":
    main()
