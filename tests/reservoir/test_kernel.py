"""The GPU kernel of the feedback scan equals the eager scan: on a GPU, or in Triton's interpreter.

Without a GPU: TRITON_INTERPRET=1 pytest tests/reservoir/test_kernel.py
"""

import importlib.util
import os
from dataclasses import replace

import pytest
import torch

from bdh.reservoir import scan
from bdh.reservoir.kernel import available, kernel_scan
from bdh.reservoir.scan import activity_scan, feedback_scan
from bdh.reservoir.step import ReservoirWeights, Rules, fresh_stream
from bdh.reservoir.truncation import one_by_one, side_by_side
from tests.support.reservoir_cases import EVERYTHING, RULES, D, N, inputs_of, used_stream, weights_of
from tests.support.variants import model_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a GPU or TRITON_INTERPRET=1"),
]
CASES = {name: rules for name, rules in RULES.items() if rules.feeds_back and rules.ties == "last"} | {
    "gain alone": Rules(mod_gamma_max=0.8),
    "k-WTA on x alone": Rules(x_kwta=True),
    "all neurons win": replace(EVERYTHING, k_wta=N),
}


def moved(tensors, device):
    return type(tensors)(*(tensor.detach().to(device) for tensor in tensors))


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "used"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_kernel_equals_eager_scan(name, fresh):
    if fresh and not CASES[name].ln_before_Dy and CASES[name].branches:
        pytest.skip("the LayerNorm of the constant core of a fresh stream is rounding noise")
    rules, device = CASES[name], "cpu" if INTERPRETED else "cuda"
    weights = weights_of(torch.float32, grad=False)
    e, spikes = inputs_of(19, rules, torch.float32)
    stream = fresh_stream(e.shape[0], weights, rules) if fresh else used_stream(weights, rules, torch.float32)
    drive = e @ weights.Dx.T
    drive = drive.relu() if rules.use_relu_lowrank else drive
    expected = feedback_scan(weights, rules, stream, e, drive, spikes)
    if not INTERPRETED and not available(rules, moved(stream, device)):
        pytest.skip("near-ties: another order of summation picks other winners, so the eager scan is used")
    on_device = (moved(weights, device), rules, moved(stream, device), e.to(device), drive.to(device))
    found = kernel_scan(*on_device, spikes.to(device))
    for quantity, one, right in zip(("x", "y", "v", "gain", "rho"), found, expected, strict=True):
        error = (one.cpu() - right).norm() / right.norm()
        assert error < 1e-4, f"{quantity}: relative error {error:.1e}"


@pytest.mark.parametrize(
    "rules",
    [
        Rules(x_decay=0.97, x_normalized=True, threshold_ratio=0.02, use_relu_lowrank=False),
        Rules(x_decay=0.9, x_normalized=True),
        Rules(x_decay=0.9, threshold_ratio=0.3),
        Rules(x_decay=0.5, threshold_ratio=-0.1, use_relu_lowrank=False),
    ],
    ids=["stabilized", "normalised", "thresholded", "signed"],
)
@torch.no_grad()
def test_kernel_of_x_alone_equals_the_eager_scan(rules, monkeypatch):
    """Odd sizes: a neuron beyond N that counts in a sum or a maximum, or a stream that reads another's, would show."""
    device = "cpu" if INTERPRETED else "cuda"
    drive = torch.randn(3, 13, 37, generator=torch.Generator().manual_seed(0))
    drive = drive.relu() if rules.use_relu_lowrank else drive
    x = torch.rand(3, 37, generator=torch.Generator().manual_seed(1))
    found = activity_scan(rules, x.to(device), drive.to(device)).cpu()
    monkeypatch.setattr(scan, "scans_activity", lambda x: False)
    torch.testing.assert_close(found, activity_scan(rules, x, drive), rtol=1e-5, atol=1e-6)


def test_states_at_the_cuts_of_gradients_come_from_the_kernel(monkeypatch):
    calls, device = [], "cpu" if INTERPRETED else "cuda"
    monkeypatch.setattr(scan, "kernel_scan", lambda *given: calls.append(given) or kernel_scan(*given))
    weights = ReservoirWeights(*(w.requires_grad_() for w in moved(weights_of(torch.float32, grad=False), device)))
    e, spikes = inputs_of(19, EVERYTHING, torch.float32)
    start = moved(used_stream(weights_of(torch.float32, grad=False), EVERYTHING, torch.float32), device)
    outputs = []
    for truncated, expected_calls in ((one_by_one, 0), (side_by_side, 3)):
        trace, _ = truncated(weights, EVERYTHING, start, e.to(device), spikes.to(device), 6)
        assert len(calls) == expected_calls
        outputs.append((*trace, *torch.autograd.grad(trace.v_BTD.cos().sum(), tuple(weights))))
    for number, (right, found) in enumerate(zip(*outputs, strict=True)):
        error = (found - right).norm() / right.norm()
        assert error < 1e-3, f"part {number}: relative error {error:.1e}"


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
@pytest.mark.parametrize(
    "variant", ["recurrent", "stabilized", "neuro", "neuro_multiscale", "neuro_no_x_norm", "neuro_only_modulation"]
)
@torch.no_grad()
def test_models_on_a_gpu_equal_float64_on_a_cpu(variant):
    model, exact = (model_of(variant, vocab_size=37).eval() for _ in range(2))
    tokens = torch.randint(37, (4, 65), generator=torch.Generator().manual_seed(0))
    found = model.cuda()(tokens.cuda(), state=model.initial_state(4))
    expected = exact.double()(tokens, state=exact.initial_state(4))
    for quantity, one, right in (
        ("logits", found.logits, expected.logits),
        *((name, found.state[name], expected.state[name]) for name in ("x", "rho")),
    ):
        error = (one.cpu().double() - right).norm() / right.norm()
        assert error < 1e-3, f"{quantity}: relative error {error:.1e}"


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
@pytest.mark.parametrize("variant", ["stabilized", "neuro", "neuro_trained"])
def test_models_train_compiled_on_a_gpu(variant):
    model = model_of(variant, vocab_size=37).cuda().train()
    tokens = torch.randint(37, (4, 33), generator=torch.Generator().manual_seed(0)).cuda()
    optimizer = torch.optim.Adam([p for _, p in model.trainable_parameters("full")], lr=1e-2)
    compiled, losses = torch.compile(model), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = compiled(tokens[:, :-1], tokens[:, 1:]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_kernel_is_used_for_what_it_can_do_and_nothing_else():
    weights = weights_of(torch.float32, grad=False)
    stream = moved(fresh_stream(2, weights, EVERYTHING), "cpu" if INTERPRETED else "cuda")
    assert not available(EVERYTHING, stream)
    with torch.no_grad():
        assert available(EVERYTHING, stream)
        assert not available(replace(EVERYTHING, ties="topk"), stream)
        assert not available(EVERYTHING, type(stream)(*(tensor.double() for tensor in stream)))
        wide = stream._replace(rho_BKDN=stream.rho_BKDN.new_zeros(2, 1, D, 200))
        assert not available(EVERYTHING, wide)
