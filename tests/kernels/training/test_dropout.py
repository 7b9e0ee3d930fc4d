"""Dropout of the fused layers: the right share, repeated exactly, the same in any grouping."""

import pytest
import torch

import bdh.models.bdh as bdh_module
import bdh.models.eq8 as eq8_module
from bdh.kernels.training.reference import Mask, multipliers
from bdh.kernels.training.shape import Tuning, heads_of, shape_of
from tests.support.fused_cases import TUNINGS, batch_of, close, model_of, trained


@pytest.mark.parametrize("variant", ["bdh", "eq8"])
@pytest.mark.parametrize("tuning", ["one group", "two groups", "segments"])
def test_dropout_with_the_same_masks_equals_the_plain_model(variant, tuning, monkeypatch):
    share, (B, T) = 0.4, (3, 21)
    model, batch = model_of(variant, tuning=TUNINGS[tuning], dropout=share), batch_of(B, T)
    H, D, N = model.encoder.shape
    torch.manual_seed(5)
    mask = Mask(share, int(torch.randint(2**31 - 1, ())))
    shape = shape_of(B, T, D, H, N, model.tuning)
    layers = iter(range(model.config.n_layer))

    def same(x_HBTN, dropped, training):
        assert (dropped, training) == (share, True)
        m = multipliers(mask.of_layer(next(layers)), shape.R, shape.HN, x_HBTN)
        return x_HBTN * heads_of(m, H).unflatten(1, (B, shape.T))[:, :, :T]

    for module in (bdh_module, eq8_module):
        monkeypatch.setattr(module, "dropout", same)
    torch.manual_seed(5)
    found = trained(model, "fused", batch)
    close(found, trained(model, "plain", batch), 1e-12)
    model.train(False)
    assert abs(trained(model, "fused", batch)["loss"] - found["loss"]) > 1e-3, "dropout must matter"


def test_masks_have_their_share_and_are_independent_of_each_other():
    like, masks = torch.empty(0), [Mask(0.3, 1).of_layer(0), Mask(0.3, 1).of_layer(1), Mask(0.3, 2).of_layer(0)]
    kept = [multipliers(mask, 400, 300, like) for mask in masks]
    for m in kept:
        assert abs(float((m == 0).float().mean()) - 0.3) < 0.006
        assert abs(float(m.mean()) - 1) < 0.01
    centred = [(m != 0).double() - 0.7 for m in kept]
    lags = [(centred[0][:-1], centred[0][1:]), (centred[0][:, :-1], centred[0][:, 1:])]
    for one, other in [(centred[0], centred[1]), (centred[0], centred[2]), *lags]:
        assert abs(float((one * other).mean()) / 0.21) < 0.015
    rows = torch.corrcoef(centred[0])
    assert float((rows - torch.eye(400)).abs().max()) < 0.35
    assert torch.equal(multipliers(Mask(0.3, masks[0].seed, 100), 50, 300, like), kept[0][100:150])
    assert (multipliers(Mask(0.0, 1), 4, 4, like) == 1).all()


def test_dropout_does_not_depend_on_the_groups_that_streams_pass_in():
    batch, found = batch_of(4, 20), []
    for rows in (1, 30_000, 10**9):
        torch.manual_seed(3)
        found.append(trained(model_of(tuning=Tuning(bytes=rows), dropout=0.5), "fused", batch))
    close(found[1], found[0], 1e-12)
    close(found[2], found[0], 1e-12)
