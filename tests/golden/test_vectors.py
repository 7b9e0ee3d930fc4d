"""The golden vectors kept in the project, those beside the checkout, and proof that the check can fail."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bdh.golden import vectors
from bdh.golden.vectors import Case, check_file, check_folder, checkers, read, relative_error
from bdh.project.errors import RunError
from tests.support.shared import shared

FOLDER = Path(__file__).parent
KEPT = sorted(path.name for path in FOLDER.glob("*.npz"))
OFFICIAL = FOLDER / "official_small.npz"
QUANTITIES = {
    "logits",
    "logits_carried",
    "loss",
    "l1_penalty",
    "l21_penalty",
    "x_sparse_density",
    "x_sparse_layer0",
    "grad_encoder",
    "grad_decoder",
    "grad_encoder_v",
    "w_eff",
    "greedy_reread",
    "greedy_carried",
}


def changed_copy(folder: Path, **changes) -> Path:
    with np.load(OFFICIAL, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        name = name.replace("param_", "param.")
        arrays[name] = change(arrays[name])
    np.savez(folder / OFFICIAL.name, **arrays)
    return folder / OFFICIAL.name


def one_off(array: np.ndarray) -> np.ndarray:
    """A copy whose largest element is off by 1e-5 of itself."""
    array = array.copy()
    array.flat[np.abs(array).argmax()] *= 1 + 1e-5
    return array


@pytest.mark.parametrize("name", KEPT)
def test_golden_vectors_kept_in_the_project_pass(name):
    case = check_file(FOLDER / name)
    assert case.status == "passed", (case.status, case.errors)


def test_golden_vectors_kept_in_the_project_are_small():
    assert OFFICIAL.name in KEPT
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) <= 250_000
    provenance = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(name in provenance for name in KEPT)


@pytest.mark.parametrize("name", ["official_small", "official_deep"])
def test_golden_official_files_beside_the_checkout_pass(name):
    case = check_file(shared(f"golden/{name}.npz"))
    assert case.passed, case.errors


def test_golden_compares_every_quantity_of_the_official_file():
    assert check_file(OFFICIAL).errors.keys() >= QUANTITIES


@pytest.mark.parametrize("name", ["logits", "loss", "l1_penalty", "l21_penalty", "grad_decoder", "w_eff"])
def test_golden_error_of_one_part_in_100000_fails(name, tmp_path):
    case = check_file(changed_copy(tmp_path, **{name: one_off}))
    assert case.status == "failed"
    assert 1e-6 < case.errors[name] < 2e-5
    assert case.worst == (name, case.errors[name])


def test_golden_other_weights_fail_in_every_output(tmp_path):
    case = check_file(changed_copy(tmp_path, param_encoder=lambda array: array[:, :, ::-1]))
    assert {"logits", "logits_carried", "grad_encoder_v", "w_eff"} <= {
        name for name, error in case.errors.items() if error > 1e-6
    }


def test_golden_wrong_token_fails(tmp_path):
    case = check_file(changed_copy(tmp_path, greedy=lambda array: np.where(np.arange(16) == 9, array ^ 1, array)))
    assert case.errors["greedy_reread"] == float("inf")
    assert case.errors["greedy_carried"] == float("inf")


def test_golden_file_without_a_checker_has_not_passed(tmp_path):
    np.savez(tmp_path / "unheard_of.npz", config="{}")
    (case,) = check_folder(tmp_path)
    assert (case.name, case.status, case.passed, case.worst) == ("unheard_of", "no checker", False, None)


def test_golden_checkers_are_found_by_listing_the_folder(tmp_path, monkeypatch):
    assert (checkers()["official_"], checkers()["neuro_"]) == ("models", "reservoirs")
    (tmp_path / "other.py").write_text('import torch\nCHECKS = {"other_": check, "more_": check}\n')
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(vectors, "CASES", tmp_path)
    assert vectors.checkers.__wrapped__() == {"other_": "other", "more_": "other"}


def test_golden_mistakes_are_clear(tmp_path):
    with pytest.raises(RunError, match="holds no golden vectors"):
        check_folder(tmp_path)
    (tmp_path / "official_broken.npz").write_bytes(b"PK not really")
    with pytest.raises(RunError, match=r"official_broken.npz is not a golden file"):
        check_folder(tmp_path)
    with pytest.raises(RunError, match="is not a golden file"):
        read(tmp_path / "missing.npz")
    np.savez(tmp_path / "official_broken.npz", config="{}")
    with pytest.raises(RunError, match="lacks"):
        check_folder(tmp_path)


def test_relative_error_counts_shape_and_infinity_as_wrong():
    expected = np.array([1.0, -4.0])
    assert relative_error([1.0, -4.0], expected) == 0
    assert relative_error([1.0, -4.4], expected) == pytest.approx(0.1)
    assert relative_error([1.4, -4.0], expected) == pytest.approx(0.1)
    assert relative_error([1.0], expected) == float("inf")
    assert relative_error([1.0, float("nan")], expected) == float("inf")
    assert relative_error([0.5], np.zeros(1)) == 0.5
    assert not Case("empty", {}).passed


def test_golden_imports_torch_only_for_a_file_that_needs_it(tmp_path):
    np.savez(tmp_path / "unheard_of.npz", config="{}")
    program = (
        "import sys; from pathlib import Path; from bdh.golden.vectors import check_folder;"
        f"check_folder(Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
