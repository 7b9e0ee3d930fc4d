"""Which path trains: chosen by what is there, said in the log, refused clearly, and the same under torch.compile."""

import logging

import pytest
import torch

from bdh.kernels.training import dispatch
from bdh.kernels.training.step import FusedTraining
from bdh.nn.probe import listening
from bdh.project.errors import ParamsError
from bdh.training.update import TrainingPass
from tests.support.fused_cases import batch_of, close, model_of, trained


def test_backward_twice_is_refused_clearly():
    loss = model_of().training_pass(*batch_of(2, 17)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="forward pass again"):
        loss.backward()


def test_path_is_chosen_and_said(caplog, monkeypatch):
    dispatch._say.cache_clear()
    caplog.set_level(logging.INFO)
    batch = batch_of(2, 17)
    model = model_of()
    model.kernel = "auto"
    assert torch.is_tensor(model.training_pass(*batch).loss)
    assert "plain path: the kernels are for GPUs and this is cpu" in caplog.text
    model.kernel = "fused"
    model.training_pass(*batch)
    model.training_pass(*batch)
    assert caplog.text.count("fused path (plain-torch forms)") == 1
    calls = []
    monkeypatch.setattr(FusedTraining, "apply", lambda *_: calls.append(1))
    with torch.no_grad():
        model.training_pass(*batch)
    with listening(lambda *_: None):
        model.training_pass(*batch)
    model.kernel = "plain"
    model.training_pass(*batch)
    assert not calls


def test_sizes_that_no_tile_fits_are_named(monkeypatch):
    monkeypatch.setattr(dispatch, "_kernels", lambda device: True)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: True)
    assert "n_embd 12" in dispatch.reason_against("fused", model_of().encoder)
    narrow = model_of(n_embd=16, n_head=4, mlp_internal_dim_multiplier=1)
    assert "4 neurons" in dispatch.reason_against("fused", narrow.encoder)
    wide = model_of(n_embd=16, n_head=1, mlp_internal_dim_multiplier=2)
    assert dispatch.reason_against("fused", wide.encoder) is None
    with pytest.raises(ParamsError, match=r"train\.kernel: fused cannot run here: n_embd 12"):
        model_of().training_pass(*batch_of(1, 5))


def test_compiled_model_takes_the_fused_path():
    model, batch = model_of(), batch_of(2, 17)
    expected = trained(model, "fused", batch)
    compiled = torch.compile(TrainingPass(model), backend="eager")
    model.zero_grad()
    output = compiled(*batch)
    assert output.total is not None
    model.objective(output).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    close(found | {"loss": output.loss.detach(), "l1": output.l1.detach()}, expected, 1e-12)
    torch.compiler.reset()
