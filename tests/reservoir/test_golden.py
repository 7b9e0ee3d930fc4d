"""Golden vectors of the reservoir family: both forms, every quantity, and proof that the check can fail."""

import numpy as np
import pytest

from bdh.golden.vectors import check_file
from tests.support.shared import shared

RECURRENT = ["recurrent_numpy", "recurrent_numpy_lnafter"] + [
    f"recurrent_torch_lnbefore{before}_relu{relu}" for before in (0, 1) for relu in (0, 1)
]
STABILIZED = ["stabilized_lnbefore0", "stabilized_lnbefore1", "stabilized_thr20"]
MECHANISMS = ["all", "branch_relu", "branch_softplus", "forget", "homeo", "kwta", "mod", "none", "stdp"]
NEURO = [f"neuro_{code}_{name}" for code in ("torch", "numpy") for name in MECHANISMS] + ["neuro_torch_lnafter"]
QUANTITIES = {
    *("x", "y", "v", "rho_final", "scan.x", "scan.y", "scan.v", "scan.rho_final"),
    *("metric.sparsity_x", "metric.sparsity_y", "metric.rho_F", "metric.rho_eff_rank"),
}


@pytest.mark.parametrize("name", RECURRENT + STABILIZED + NEURO)
def test_golden_reservoir_files_pass_in_both_forms(name):
    case = check_file(shared(f"golden/{name}.npz"))
    assert case.passed, case.errors
    assert case.errors.keys() == QUANTITIES | ({"metric.gain"} if name in NEURO else set())


@pytest.mark.parametrize(
    ("name", "changed", "quantity"),
    [
        ("recurrent_numpy", "param.Dx", "x"),
        ("stabilized_thr20", "param.Dy", "y"),
        ("neuro_torch_all", "param.E", "v"),
        ("neuro_torch_all", "metric.gain", "metric.gain"),
    ],
)
def test_golden_reservoir_check_fails_when_a_number_is_off(name, changed, quantity, tmp_path):
    with np.load(shared(f"golden/{name}.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays[changed] = arrays[changed] * np.linspace(1, 1.001, arrays[changed].size).reshape(arrays[changed].shape)
    np.savez(tmp_path / f"{name}.npz", **arrays)
    case = check_file(tmp_path / f"{name}.npz")
    assert case.status == "failed"
    assert case.errors[quantity] > 1e-6


def test_golden_conventions_of_the_layer_norm_are_told_apart(tmp_path):
    """The NumPy vectors under a name that promises the torch convention must fail."""
    source = shared("golden/recurrent_numpy.npz")
    (tmp_path / "recurrent_torch_renamed.npz").write_bytes(source.read_bytes())
    assert check_file(tmp_path / "recurrent_torch_renamed.npz").errors["v"] > 1e-3
