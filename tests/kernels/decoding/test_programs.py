"""The Triton programs of decoding equal their torch form: on a GPU, or in Triton's interpreter.

Without a GPU: TRITON_INTERPRET=1 pytest tests/kernels/decoding/test_programs.py
"""

import importlib.util
import os

import pytest
import torch

from bdh.kernels.decoding.decoder import Decoder
from bdh.kernels.decoding.reference import choose
from tests.support.decoding_cases import LENGTHS, V, model_of, relative, texts, worst_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a GPU or TRITON_INTERPRET=1"),
]
NARROW = (torch.float32, torch.bfloat16)
STEPS = ("few", "many")
"""Programs for few streams and for many; both take any number of them."""


@pytest.fixture(autouse=True)
def sound_interpreter(monkeypatch):
    """The interpreter multiplies the bits of bfloat16 numbers, truncates where a GPU rounds, and takes bounds of loops
    from arrays of one number, which numpy 2.4 refuses; all are put right."""
    if not INTERPRETED:
        return
    import triton.language as tl
    from triton.runtime import interpreter

    builder, plain_dot, plain_cast = (
        interpreter.InterpreterBuilder,
        *(getattr(interpreter.InterpreterBuilder, name) for name in ("create_dot", "cast_impl")),
    )

    def dot(self, a, b, d, *rest):
        wide = [plain_cast(self, t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b)]
        return plain_dot(self, *wide, d, *rest)

    def truncate(self, source, to):
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            rounded = torch.from_numpy(source.data.astype("float32")).bfloat16().view(torch.int16)
            return interpreter.TensorHandle(rounded.numpy().view("uint16"), tl.bfloat16)
        return plain_cast(self, source, to)

    plain_patch = interpreter._patch_lang

    def patch(program):
        scope = plain_patch(program)
        tl.core.tensor.__index__ = lambda self: int(self.handle.data.item())
        return scope

    monkeypatch.setattr(interpreter, "_patch_lang", patch)
    monkeypatch.setattr(builder, "create_dot", dot)
    monkeypatch.setattr(builder, "create_fp_trunc", truncate)
    monkeypatch.setattr(builder, "create_fp_to_fp", lambda self, source, to, mode: truncate(self, source, to))


def decoders(model, streams, narrow, window=16, step="many"):
    """The programs, in tiles that small models have several of, and their torch form, on the same device."""
    from bdh.kernels.decoding import few, many

    tiles = {
        "few": few.FewTiles(pairs=16, neurons=32, ask_warps=4, answer_warps=4, ask_group=4, answer_group=16),
        "many": many.ManyTiles(encode=32, chunk=16, rows=16, stages=3, gate=32, groups=3, mix=16),
    }
    model = model.to(DEVICE)
    return (Decoder(model, streams, window, engine, narrow, tiles=tiles[step]) for engine in ("fused", "plain"))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("variant", "kind"), [("bdh", "usual"), ("bdh", "silent"), ("bdh", "active"), ("eq8", "usual")]
)
def test_programs_equal_the_parallel_form(variant, kind, step):
    model = model_of(variant, torch.float32, kind)
    fused, _ = decoders(model, len(LENGTHS), torch.float32, step=step)
    errors = worst_error(model.cpu(), fused, 18)
    assert max(errors.values()) < 2e-5, errors


@pytest.mark.parametrize(
    ("settings", "narrow"),
    [
        ({}, torch.bfloat16),
        ({"n_layer": 1, "n_head": 3, "n_embd": 36}, torch.float32),
        ({"n_head": 1, "n_embd": 16, "mlp_internal_dim_multiplier": 12}, torch.float32),
        ({"n_head": 1, "n_embd": 16, "mlp_internal_dim_multiplier": 12}, torch.bfloat16),
    ],
    ids=["usual-bfloat16", "three-heads", "three-tiles", "three-tiles-bfloat16"],
)
@pytest.mark.parametrize("step", STEPS)
def test_programs_equal_their_torch_form(settings, narrow, step):
    model, tokens = model_of(dtype=torch.float32, **settings), texts(26).to(DEVICE)
    found = []
    for decoder in decoders(model, len(tokens), narrow, step=step):
        decoder.start([text[:8].tolist() for text in tokens])
        found.append((torch.stack([decoder.feed(column) for column in tokens[:, 8:].T]), decoder.state()["rho"]))
    limit = 1e-5 if narrow == torch.float32 else 1e-2
    assert relative(found[0][0].cpu(), found[1][0].cpu()) < limit
    assert relative(found[0][1].cpu(), found[1][1].cpu()) < limit


def test_more_streams_than_one_tile_holds():
    model, tokens = model_of(dtype=torch.float32, n_layer=1), texts(18, 70).to(DEVICE)
    found = []
    for decoder in decoders(model, 70, torch.float32):
        decoder.start([text[: 1 + number % 5].tolist() for number, text in enumerate(tokens)])
        found.append(torch.stack([decoder.feed(column) for column in tokens[:, 16:].T]).cpu())
    assert relative(*found) < 1e-5


@pytest.mark.parametrize("narrow", NARROW, ids=["float32", "bfloat16"])
def test_folding_equals_its_torch_form_and_empties_the_window(narrow):
    fused, plain = decoders(model_of(dtype=torch.float32), 2, narrow)
    generator = torch.Generator().manual_seed(0)
    for name in ("window_q", "window_x"):
        values = torch.randn(getattr(plain.memory, name).shape, generator=generator).to(DEVICE)
        values[..., ::3, :] = 0.0
        for decoder in (fused, plain):
            getattr(decoder.memory, name).copy_(values)
    for decoder in (fused, plain):
        decoder.waiting = 16
        for layer in range(2):
            decoder.memory.store(layer, torch.full_like(decoder.memory.layer(layer), 1 / 3))
        decoder.fold()
        assert not decoder.memory.window_q.any()
    assert relative(fused.memory.state()["rho"].cpu(), plain.memory.state()["rho"].cpu()) < 1e-6


@pytest.mark.parametrize("top_k", [0, 1, 5, V])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_sampling_program_draws_what_its_torch_form_draws(temperature, top_k):
    from bdh.kernels.decoding import common

    B, seeds = 40, torch.arange(40, device=DEVICE) * 2**31
    logits = torch.randn(B, V, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    position = torch.arange(B, device=DEVICE) * 2**30
    filled, tokens = torch.full((B,), 3, dtype=torch.int32, device=DEVICE), torch.zeros_like(seeds)
    history = torch.zeros(B, 8, dtype=torch.int64, device=DEVICE)
    heat = torch.full((B,), temperature, device=DEVICE)
    kept = torch.full((B,), top_k, dtype=torch.int32, device=DEVICE)
    expected = choose(logits, heat, kept, seeds, position + 1)
    counted = position.clone()
    common.choose[(B,)](logits, heat, kept, seeds, counted, filled, tokens, history, V, 8, VP=64)
    assert torch.equal(tokens, expected)
    assert torch.equal(history[:, 3], expected)
    assert torch.equal(counted, position + 1)
    assert filled.tolist() == [4] * B


@pytest.mark.parametrize("step", STEPS)
def test_whole_texts_equal_those_of_the_torch_form(step):
    texts_of = []
    for decoder in decoders(model_of(dtype=torch.float32), 2, torch.float32, step=step):
        decoder.start([[1, 2, 3], [4]], temperature=0.8, top_k=7, seeds=[5, 6])
        texts_of.append(torch.cat([decoder.run(n) for n in (5, 13)], dim=1))
    assert torch.equal(*texts_of)


@pytest.mark.parametrize("step", STEPS)
def test_positions_beyond_the_exact_phase(step):
    found, tokens = [], texts(12, 1).to(DEVICE)
    for decoder in decoders(model_of(dtype=torch.float32), 1, torch.float32, step=step):
        decoder.start([[0]])
        decoder.memory.position.fill_(16380)
        found.append(torch.stack([decoder.feed(column) for column in tokens.T]).cpu())
    assert relative(*found) < 1e-4


@pytest.mark.parametrize("streams", [1, 3])
def test_programs_that_overlap_write_what_those_that_wait_write(streams):
    """On a GPU bit for bit, again and again; the interpreter runs one program after another anyway."""
    model, tokens, found = model_of(dtype=torch.float32).to(DEVICE), texts(40, streams).to(DEVICE), []
    for early in (False, None, None):
        decoder = Decoder(model, streams, 16, "fused", torch.float32, early)
        decoder.start([[1, 2, 3]] * streams)
        found.append(torch.stack([decoder.feed(column) for column in tokens.T]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
