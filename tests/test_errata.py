"""docs/errata.md: every test that it names exists, and the errata that no other file covers."""

import ast
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bdh.models import bdh, transformer
from bdh.models.base import build
from bdh.nn.counts import bdh_neurons
from bdh.reservoir.step import ReservoirWeights, Rules, core_drive, layer_norm
from tests.support.shared import shared

ROOT = Path(__file__).resolve().parents[1]


def test_errata_name_tests_that_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/errata.md").read_text(encoding="utf-8")))
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert len(named) > 20
    assert named <= defined, sorted(named - defined)


def test_errata_attention_without_a_mask_sees_the_future(monkeypatch):
    model = build("transformer", vocab_size=11, seed=0, **transformer.TINY).eval()
    text = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    changed = text.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 11
    assert torch.equal(model(text).logits[:, :-1], model(changed).logits[:, :-1])
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: attention(q, k, v))
    assert not torch.allclose(model(text).logits[:, :-1], model(changed).logits[:, :-1])


def test_errata_entries_of_the_coactivation_state():
    shape = bdh.Config(n_layer=4, n_embd=128, n_head=4, mlp_internal_dim_multiplier=128)
    neurons = bdh_neurons(shape.n_embd, shape.n_head, shape.mlp_internal_dim_multiplier)
    per_layer = shape.n_head * neurons**2
    assert per_layer == 67_108_864
    assert shape.n_layer * per_layer == 268_435_456


def test_errata_published_scripts_are_as_described():
    folder = shared("references") / "bdh_neuro"
    script = ast.parse((folder / "train_bdh_baseline.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(script) if isinstance(node, ast.ImportFrom)]
    (wanted,) = [node for node in imports if node.module == "bdh_gpu_ref_stabilized"]
    module = ast.parse((folder / "bdh_gpu_ref_stabilized.py").read_text(encoding="utf-8"))
    classes = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    assert wanted.names[0].name not in classes
    assert re.search(r"seq = x\[0\]", (folder / "train_bdh_refstyle.py").read_text(encoding="utf-8"))


def test_errata_softplus_does_not_overflow():
    with np.errstate(over="ignore"):
        assert np.isinf(np.log1p(np.exp(1000.0)))
    generator = torch.Generator().manual_seed(0)
    a_BD, Dy_ND = torch.randn(3, 4, generator=generator), 1e3 * torch.randn(6, 4, generator=generator)
    rules = Rules(branches=2, branch_nl="softplus")
    found = core_drive(a_BD, ReservoirWeights(torch.empty(4, 6), torch.empty(6, 4), Dy_ND), rules)
    z_BN = (layer_norm(a_BD, rules.unbiased_std) @ Dy_ND.T).double().numpy()
    assert z_BN.max() > 750
    wanted = np.maximum(z_BN, 0) + np.log1p(np.exp(-np.abs(z_BN)))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)
