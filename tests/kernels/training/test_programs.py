"""Each Triton kernel of the fused layers equals its plain-torch form: on a GPU, or in Triton's interpreter.

Without a GPU: TRITON_INTERPRET=1 pytest tests/kernels/training/test_programs.py
"""

import importlib.util
import os

import pytest
import torch

from bdh.kernels.training import reference
from bdh.kernels.training.shape import PassShape, Tuning
from bdh.models.base import build
from benchmarks.kernels import cases, error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a GPU or TRITON_INTERPRET=1"),
]
DEVICE = "cpu" if INTERPRETED else "cuda"
TILED = ("encode", "gate", "scores", "gradient", "pairs", "activity", "states")
SMALL = {name: {"M": 16, "N": 16, "K": 16} for name in TILED}
SHAPES = {
    "short": (PassShape(3, 48, 48, 16, 2, 96), Tuning(blocks=SMALL)),
    "one tile": (PassShape(1, 16, 16, 32, 1, 32), Tuning()),
    "segments": (PassShape(2, 96, 32, 32, 2, 64), Tuning(blocks=SMALL)),
}
NAMES = sorted({name for name, case in cases(SHAPES["segments"][0], torch.float32, "cpu").items() if case.kernel})


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_kernel_equals_its_plain_form(name, shape, dtype, share):
    from bdh.kernels.training import launch

    if dtype == torch.float32 and not INTERPRETED:
        pytest.skip("on a GPU the operands are bfloat16")
    if share == 0.0 and not name.startswith("gate"):
        pytest.skip("no dropout here")
    size, tuning = SHAPES[shape]
    case = cases(size, dtype, DEVICE, share).get(name)
    if case is None:
        pytest.skip("one segment: no state")
    expected, found = case.run(reference, tuning), case.run(launch, tuning)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for key in expected:
        assert found[key].shape == expected[key].shape
        assert error(found[key], expected[key]) < tolerance, key


@pytest.mark.parametrize("vocabulary", [5, 37, 200])
def test_loss_kernel_equals_its_plain_form(vocabulary):
    from bdh.kernels.training import launch

    torch.manual_seed(0)
    logits = torch.randn(6, -(-vocabulary // 64) * 64, device=DEVICE) * 4
    targets = torch.randint(vocabulary, (6,), device=DEVICE)
    one, other = logits.clone(), logits.clone()
    losses = launch.loss(one, targets, vocabulary, 0.5)
    expected = reference.loss(other, targets, vocabulary, 0.5)
    assert error(losses, expected) < 1e-6
    assert error(one, other) < 1e-6
    assert not one[:, vocabulary:].any()


def test_no_kernel_writes_where_another_stream_stands():
    from bdh.kernels.training import launch

    size, tuning = SHAPES["segments"]
    case = cases(size, torch.bfloat16, DEVICE)["states"]
    assert not case.run(launch, tuning)["rho"][:: size.T // size.C].any(), "a stream starts with an empty state"


@pytest.mark.parametrize("variant", ["bdh", "eq8"])
@pytest.mark.parametrize("tokens", [21, 45])
def test_model_trained_by_kernels_equals_the_plain_path(variant, tokens):
    gradients = {}
    shape = {"n_layer": 2, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 8, "dropout": 0.0}
    batch = torch.randint(37, (2, 3, tokens), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for kernel in ("plain", "fused"):
        model = build(variant, vocab_size=37, seed=1, **shape).to(DEVICE).train()
        model.begin_training(kernel=kernel, l1_weight=0.3)
        model.tuning = Tuning(long_from=32, segment=16, bytes=1, loss_rows=17)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(6)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=not INTERPRETED):
            output = model.training_pass(*batch)
        model.objective(output).backward()
        gradients[kernel] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, expected in gradients["plain"].items():
        difference = (gradients["fused"][name] - expected).norm() / expected.norm()
        assert difference < (1e-5 if INTERPRETED else 0.15), f"{name}: {difference:.1e}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are for GPUs")
@pytest.mark.parametrize("variant", ["bdh", "eq8"])
@pytest.mark.parametrize("neurons", [2, 16], ids=["any GPU", "Hopper"])
def test_replayed_steps_equal_the_first_one(variant, neurons):
    shape = {"n_layer": 2, "n_embd": 128, "n_head": 2, "mlp_internal_dim_multiplier": neurons, "dropout": 0.2}
    model = build(variant, vocab_size=37, seed=1, **shape).cuda().train()
    model.tuning = Tuning(bytes=1)
    batches = torch.randint(37, (2, 2, 3, 250), device="cuda")
    found = []
    for step in range(4):
        torch.manual_seed(5)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.training_pass(*batches[0 if step in (0, 3) else 1]).loss
        model.zero_grad()
        loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        found.append((loss.detach(), gradients))
    assert error(found[3][0], found[0][0]) < 1e-6
    for name, expected in found[0][1].items():
        assert error(found[3][1][name], expected) < 1e-5, name
        assert error(found[1][1][name], expected) > 1e-3, f"{name}: another batch must give something else"
