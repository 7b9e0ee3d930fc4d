"""Small reservoirs, their inputs and the step form, which every other form must equal."""

from dataclasses import replace

import torch

from bdh.reservoir.step import ReservoirWeights, Rules, fresh_stream, step

B, D, N, V = 3, 8, 24, 37
EVERYTHING = Rules(
    kernels=(0.99, 0.97, 0.94),
    kernel_weights=(5.0, 3.0, 2.0),
    x_decay=0.97,
    x_normalized=True,
    x_kwta=True,
    branches=2,
    k_wta=3,
    homeostasis_tau=0.01 * N,
    mod_gamma_max=0.8,
    local_forget_eta=0.02,
    spike_rate=0.1,
)
RULES = {
    "recurrent": Rules(),
    "recurrent without relu, ln outside, biased": Rules(use_relu_lowrank=False, ln_before_Dy=False, unbiased_std=False),
    "stabilized": Rules(use_relu_lowrank=False, x_decay=0.97, x_normalized=True, threshold_ratio=0.02),
    "neuro": EVERYTHING,
    "neuro ties by topk": replace(EVERYTHING, ties="topk"),
    "neuro multiscale": replace(EVERYTHING, separate_kernels=True),
    "neuro relu branches": replace(EVERYTHING, branches=3, branch_nl="relu"),
    "neuro ln outside, signed drive": replace(EVERYTHING, ln_before_Dy=False, use_relu_lowrank=False),
    "neuro parallel": replace(EVERYTHING, x_kwta=False, mod_gamma_max=0.0, local_forget_eta=0.0, separate_kernels=True),
    "neuro forgetting alone": Rules(local_forget_eta=0.1, x_decay=0.9, x_normalized=True, threshold_ratio=0.5),
}


def weights_of(dtype=torch.float64, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)

    def random(rows, columns):
        return (torch.randn(rows, columns, generator=generator) / columns**0.5).to(dtype).requires_grad_(grad)

    return ReservoirWeights(random(D, N), random(N, D), random(N, D))


def inputs_of(T, rules, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    e = (torch.randn(B, T, D, generator=generator) / D**0.5).to(dtype).requires_grad_()
    return e, torch.rand(B, T, N, generator=generator) < rules.spike_rate


def stepwise(weights, rules, stream, e, spikes, truncation=None):
    rows = []
    for t in range(e.shape[1]):
        if truncation and t and t % truncation == 0:
            stream = stream.detach()
        stream, gain = step(weights, rules, stream, e[:, t], spikes[:, t])
        rows.append((stream.v_BD, gain, stream.x_BN, stream.y_BN))
    return [torch.stack(parts, 1) for parts in zip(*rows, strict=True)], stream


def used_stream(weights, rules, dtype=torch.float64):
    """A state in the middle of a text: what 5 other tokens leave."""
    e, spikes = inputs_of(5, rules, dtype, seed=9)
    with torch.no_grad():
        return stepwise(weights, rules, fresh_stream(B, weights, rules), e, spikes)[1]


def assert_close(found, expected, tolerance, what):
    error = (found - expected).norm() / (expected.norm() + 1e-30)
    assert error <= tolerance, f"{what}: relative error {error:.1e}"
