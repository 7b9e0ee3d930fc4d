"""Small models, batches and the comparison of gradients that the tests of the training kernels share."""

import torch

from bdh.kernels.training.shape import Tuning
from bdh.models.base import build

V = 37
SHAPE = {"n_layer": 3, "n_embd": 12, "n_head": 3, "mlp_internal_dim_multiplier": 6, "dropout": 0.0}
TUNINGS = {
    "one group": Tuning(),
    "two groups": Tuning(bytes=80_000),
    "segments": Tuning(long_from=2, segment=16),
    "segments, a group per stream": Tuning(long_from=2, segment=16, bytes=1),
    "loss in chunks": Tuning(loss_rows=7),
}


def model_of(variant="bdh", dtype=torch.float64, tuning=None, **settings):
    model = build(variant, vocab_size=V, seed=1, **(SHAPE | settings)).to(dtype).train()
    model.kernel, model.tuning = "fused", tuning or Tuning()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


def batch_of(B, T, seed=0):
    return torch.randint(V, (2, B, T), generator=torch.Generator().manual_seed(seed))


def trained(model, kernel, batch, l1=0.3):
    """Loss, L1 and gradients by name."""
    model.begin_training(kernel=kernel, l1_weight=l1)
    model.zero_grad()
    output = model.training_pass(*batch)
    assert (output.logits.shape[1] == 0) == (kernel == "fused")
    model.objective(output).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return found | {"loss": output.loss.detach()} | ({"l1": output.l1.detach()} if l1 > 0 else {})


def close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        difference = (found[name] - right).norm() / right.norm()
        assert difference <= tolerance, f"{name}: relative error {difference:.1e}"
