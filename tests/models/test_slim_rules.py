"""The local rules: their equations, their bounds, and that the unbounded one is unbounded."""

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bdh.nn.plastic import delta_change, oja_change, plain_change


def rows(seed: int, count: int, width: int, spread: float = 1.0) -> torch.Tensor:
    return spread * torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_plain_and_oja_are_their_equations():
    W, x = rows(0, 3, 5, 0.1), rows(1, 7, 5)
    y = x @ W.mT
    hebb, oja = torch.zeros_like(W), torch.zeros_like(W)
    for r in range(7):
        hebb += 0.01 * torch.outer(y[r], x[r]) / 7
        oja += 0.01 * (torch.outer(y[r], x[r]) - y[r].square()[:, None] * W) / 7
    torch.testing.assert_close(plain_change(W, x, y, 0.01), hebb, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(oja_change(W, x, y, 0.01), oja, rtol=1e-10, atol=1e-14)


def test_delta_is_its_equation_and_the_negative_gradient():
    W, h = rows(0, 4, 5).requires_grad_(), rows(1, 7, 5)
    targets = torch.tensor([0, 1, 3, 3, 2, 0, 1])
    logits = h @ W.mT
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, targets), W)
    change = delta_change(logits.detach(), targets, h, 1e-3)
    torch.testing.assert_close(change, -1e-3 * gradient, rtol=1e-10, atol=1e-14)
    error = F.one_hot(targets, 4) - logits.detach().softmax(-1)
    torch.testing.assert_close(change, 1e-3 * error.mT @ h / 7, rtol=1e-10, atol=1e-14)


def test_oja_finds_the_first_principal_component_with_unit_length():
    x = rows(0, 400, 6) * torch.tensor([3.0, 1.0, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    W = rows(1, 3, 6, 0.02)
    for _ in range(2000):
        W = W + oja_change(W, x, x @ W.mT, 0.01)
    component = torch.linalg.eigh(x.mT @ x).eigenvectors[:, -1]
    torch.testing.assert_close((W @ component).abs(), torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(W.norm(dim=1), torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_plain_rule_on_outputs_before_a_nonlinearity_grows_without_bound():
    """The documented negative: with y = W x, Hebb's rule is a power iteration, even on normalised inputs."""
    x = F.layer_norm(rows(0, 50, 16) + rows(1, 1, 16), (16,))
    bounded = growing = rows(2, 4, 16, 0.02)
    norms = []
    for _ in range(600):
        growing = growing + plain_change(growing, x, x @ growing.mT, 0.01)
        bounded = bounded + oja_change(bounded, x, x @ bounded.mT, 0.01)
        norms.append(float(growing.norm()))
    assert norms[-1] > 1e6
    assert norms[-1] / norms[-101] > 100
    assert (bounded.norm(dim=1) < 1.2).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    width=st.integers(1, 9),
    rate=st.floats(1e-4, 1e3),
    spread=st.floats(1e-3, 1e3),
    weight=st.floats(0.0, 1e3),
)
def test_oja_step_obeys_its_bound_for_any_rate_and_input(seed, width, rate, spread, weight):
    W, x = rows(seed, 3, width, weight), rows(seed + 1, 5, width, spread)
    after = (W + oja_change(W, x, x @ W.mT, rate)).square().sum(1)
    bound = torch.maximum(W.square().sum(1), 2 + rate * x.square().sum(1).mean())
    assert (after <= bound * (1 + 1e-9)).all()


def test_oja_without_the_limit_on_its_step_diverges():
    """Why the limit is there: the explicit rule at the published rate on inputs as long as 512 channels make them."""
    x = 512**0.5 * F.normalize(rows(0, 1, 512), dim=1).expand(9, -1)
    explicit = limited = 1.5 * F.normalize(rows(0, 1, 512), dim=1)
    for _ in range(20):
        y = x @ explicit.mT
        explicit = explicit + 0.01 * ((y.mT @ x) / 9 - y.square().mean(0)[:, None] * explicit)
        limited = limited + oja_change(limited, x, x @ limited.mT, 0.01)
    assert not explicit.norm() < 1e6
    assert limited.norm() == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 7),
    rate=st.floats(1e-3, 1e4),
    spread=st.floats(1e-2, 30.0),
    weight=st.floats(0.0, 3.0),
)
def test_delta_step_never_raises_the_loss_of_its_own_tokens(seed, classes, rate, spread, weight):
    W, h = rows(seed, classes, 4, weight), rows(seed + 1, 6, 4, spread)
    targets = torch.randint(classes, (6,), generator=torch.Generator().manual_seed(seed))
    before = F.cross_entropy(h @ W.mT, targets)
    after = F.cross_entropy(h @ (W + delta_change(h @ W.mT, targets, h, rate)).mT, targets)
    assert after <= before + 1e-12


def test_delta_rule_at_a_fixed_large_rate_does_raise_it():
    h = rows(0, 1, 64).expand(6, -1)
    targets = torch.tensor([0, 1, 0, 1, 0, 0])
    W = rows(1, 3, 64, 0.01)
    error = F.one_hot(targets, 3) - (h @ W.mT).softmax(-1)
    before = F.cross_entropy(h @ W.mT, targets)
    assert F.cross_entropy(h @ (W + 1.0 * error.mT @ h / 6).mT, targets) > before + 1
    assert F.cross_entropy(h @ (W + delta_change(h @ W.mT, targets, h, 1.0)).mT, targets) < before


def test_silent_and_perfect_inputs_change_nothing():
    W = rows(0, 3, 4)
    assert (oja_change(W, torch.zeros(5, 4).double(), torch.zeros(5, 3).double(), 0.01) == 0).all()
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]], dtype=torch.float64)
    change = delta_change(sure, torch.tensor([0, 1]), rows(1, 2, 4), 1.0)
    assert torch.isfinite(change).all()
    assert change.abs().max() < 1e-12


def test_halves_of_a_batch_on_two_ranks_learn_as_the_whole_on_one(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    address = f"file://{tmp_path / 'meeting'}"
    workers = [context.Process(target=_rank, args=(rank, address, str(tmp_path))) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    expected = _changes(slice(None))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for ours, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(_changes(slice(0, 4))[0], expected[0])


def _changes(part: slice) -> list[torch.Tensor]:
    W, x, h = rows(0, 3, 5), rows(1, 8, 5, 3.0)[part], rows(2, 8, 4, 3.0)[part]
    targets = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1])[part]
    readout = rows(3, 3, 4)
    return [
        oja_change(W, x, x @ W.mT, 0.5),
        plain_change(W, x, x @ W.mT, 0.5),
        delta_change(h @ readout.mT, targets, h, 1e3),
    ]


def _rank(rank: int, address: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(_changes(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
